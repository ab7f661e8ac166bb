"""Inner products with given gradients, as they come: the exact products of a training gradient with a few queries.

    phi(g) = (<g, psi_1>, ..., <g, psi_Q>, |g|^2)

Nothing of the size of a gradient is kept for an example: each block's gradient is formed, multiplied and dropped. The
square makes it the one sketch that is not linear.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from assay.compress.none import IdentitySketch
from assay.gradients.blocks import Block
from assay.gradients.sketch import Compression


@dataclass(frozen=True, eq=False)
class Against(Compression):
    """Products with the exact (uncompressed) features `psi` [queries, parameters], and the squared length."""

    psi: Tensor | None = None

    def bind(self, blocks: Sequence[Block], device: torch.device, dtype: torch.dtype) -> "AgainstSketch":
        """The queries' gradients, block by block."""
        assert self.psi is not None
        return AgainstSketch(blocks, self.psi.to(device))

    def __str__(self) -> str:
        return "against"


class AgainstSketch(IdentitySketch):
    """One slot for all blocks: products and squares add up over them."""

    linear = False

    def __init__(self, blocks: Sequence[Block], psi: Float[Tensor, "q k"]) -> None:
        super().__init__(blocks)
        self._parts = [psi[:, slot].contiguous() for slot in self.slots]
        self.width = len(psi) + 1
        self.slots = (slice(0, self.width),) * len(blocks)

    def emit(self, block: int, gradient: Float[Tensor, "batch p q"]) -> Float[Tensor, "batch w"]:
        """Products with every query, then the squared length."""
        flat = gradient.flatten(1)
        return torch.cat([flat @ self._parts[block].to(flat.dtype).T, flat.square().sum(1, keepdim=True)], 1)

    def whole(self, block: int, gradient: Float[Tensor, "batch rows cols"]) -> Float[Tensor, "batch w"]:
        """The same."""
        return self.emit(block, gradient)
