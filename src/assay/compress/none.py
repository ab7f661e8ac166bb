"""No compression: the feature is the gradient itself, `width` = parameters."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from assay.gradients.blocks import Block
from assay.gradients.rules import Side
from assay.gradients.sketch import Compression, Sketch


@dataclass(frozen=True)
class Identity(Compression):
    """Exact gradients; for small models or few examples."""

    def bind(self, blocks: Sequence[Block], device: torch.device, dtype: torch.dtype) -> "IdentitySketch":
        """Only the layout of the blocks."""
        return IdentitySketch(blocks)

    def __str__(self) -> str:
        return "none"


class IdentitySketch(Sketch):
    """Blocks flattened row by row, one behind the other."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        ends = [0]
        for block in blocks:
            ends.append(ends[-1] + block.size)
        self.width = ends[-1]
        self.slots = tuple(slice(a, b) for a, b in pairwise(ends))

    def left(self, block: int, side: Side) -> Side:
        """As it is."""
        return side

    def right(self, block: int, side: Side) -> Side:
        """As it is."""
        return side

    def emit(self, block: int, gradient: Float[Tensor, "batch p q"]) -> Float[Tensor, "batch w"]:
        """Flattened."""
        return gradient.flatten(1)

    def whole(self, block: int, gradient: Float[Tensor, "batch rows cols"]) -> Float[Tensor, "batch w"]:
        """Flattened."""
        return gradient.flatten(1)
