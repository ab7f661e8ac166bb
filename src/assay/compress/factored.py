"""Two-sided random projection, applied to inputs and output gradients inside the pass.

    phi(G) = P G Q^T = sum_t (P d_t)(Q a_t)^T,     P in R^{k x rows}, Q in R^{k x cols}, entries +-1/sqrt(k)

(LoGra, Choe et al. 2024, 2405.13954, section 3, with random matrices). A side no wider than `k` is kept as it is. Cost:
`tokens * k * (rows + cols)` a block beside `tokens * rows * cols` of the layer itself; no gradient is formed.

Error: with `t` = 2/k for each projected side (0 for a kept one), for one block and any G, H
`Var <phi(G), phi(H)> <= ((1 + t_P)(1 + t_Q) - 1) |G|^2 |H|^2`, so the inner product of two unit gradients in one block
has a standard deviation of at most 0.52 at k = 16 and 0.18 at k = 128. Over `m` blocks of equal weight it falls by
`sqrt(m)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from assay.errors import MethodError
from assay.gradients.blocks import Block
from assay.gradients.rules import OneHot, Side
from assay.gradients.sketch import Compression, Sketch, gather, generator


@dataclass(frozen=True)
class Factored(Compression):
    """`rank` numbers a side, so `rank^2` a block."""

    rank: int = 16
    forms_gradients: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise MethodError(f"The rank of a factored projection is {self.rank}; at least 1 was expected.")

    def bind(self, blocks: Sequence[Block], device: torch.device, dtype: torch.dtype) -> "FactoredSketch":
        """Signs for every block and side, by the block's name."""
        return FactoredSketch(
            [self._signs(b.name, "left", b.rows, device, dtype) for b in blocks],
            [self._signs(b.name, "right", b.cols, device, dtype) for b in blocks],
            blocks,
        )

    def _signs(self, name: str, side: str, size: int, device: torch.device, dtype: torch.dtype) -> Tensor | None:
        """[size, rank] of +-1/sqrt(rank); None where the side is short enough to keep."""
        if size <= self.rank:
            return None
        bits = torch.randint(0, 2, (size, self.rank), generator=generator(self.seed, name, side), dtype=torch.int8)
        return ((2 * bits - 1) / self.rank**0.5).to(device, dtype)

    def __str__(self) -> str:
        return f"factored:{self.rank}"


class FactoredSketch(Sketch):
    """Projection matrices [size, rank] for both sides of every block."""

    def __init__(
        self, lefts: Sequence[Tensor | None], rights: Sequence[Tensor | None], blocks: Sequence[Block]
    ) -> None:
        self.lefts, self.rights = lefts, rights
        ends = [0]
        for block, left, right in zip(blocks, lefts, rights, strict=True):
            rows = block.rows if left is None else left.shape[1]
            cols = block.cols if right is None else right.shape[1]
            ends.append(ends[-1] + rows * cols)
        self.width = ends[-1]
        self.slots = tuple(slice(a, b) for a, b in pairwise(ends))

    def left(self, block: int, side: Side) -> Side:
        """`P d_t`."""
        return _project(self.lefts[block], side)

    def right(self, block: int, side: Side) -> Side:
        """`Q a_t`."""
        return _project(self.rights[block], side)

    def emit(self, block: int, gradient: Float[Tensor, "batch p q"]) -> Float[Tensor, "batch w"]:
        """Flattened."""
        return gradient.flatten(1)

    def whole(self, block: int, gradient: Float[Tensor, "batch rows cols"]) -> Float[Tensor, "batch w"]:
        """`P G Q^T`."""
        left, right = self.lefts[block], self.rights[block]
        if left is not None:
            gradient = left.to(gradient.dtype).T @ gradient
        if right is not None:
            gradient = gradient @ right.to(gradient.dtype)
        return gradient.flatten(1)


def _project(matrix: Tensor | None, side: Side) -> Side:
    if matrix is None:
        return side
    return gather(matrix, side) if isinstance(side, OneHot) else side @ matrix.to(side.dtype)
