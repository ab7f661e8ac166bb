"""Count-sketch (a sparse Johnson-Lindenstrauss transform with one non-zero a column) of whole gradients.

    phi(g)[h(j)] += s(j) g[j],     h(j) uniform over `dim` buckets, s(j) = +-1

(Charikar et al. 2002; used for gradients by GraSS, 2505.18976.) One pass over the gradient whatever `dim` is. For unit
vectors `Var <phi(g), phi(h)> <= 2 / dim`, over all parameters together: the choice for arbitrary modules and for TRAK.
Per-example gradients of one block are formed on the way, `batch * rows * cols` numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from assay.errors import MethodError
from assay.gradients.blocks import Block
from assay.gradients.rules import Side
from assay.gradients.sketch import Compression, Sketch, generator


@dataclass(frozen=True)
class SJLT(Compression):
    """`dim` numbers for the whole model."""

    dim: int = 2048

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise MethodError(f"The dimension of a count-sketch is {self.dim}; at least 1 was expected.")

    def bind(self, blocks: Sequence[Block], device: torch.device, dtype: torch.dtype) -> "SJLTSketch":
        """A bucket and a sign for every parameter, by the block's name."""
        buckets: list[Tensor] = []
        signs: list[Tensor] = []
        for block in blocks:
            source = generator(self.seed, block.name, "sjlt")
            buckets.append(torch.randint(0, self.dim, (block.size,), generator=source).to(device))
            bits = torch.randint(0, 2, (block.size,), generator=source, dtype=torch.int8)
            signs.append((2 * bits - 1).to(device, dtype))
        return SJLTSketch(self.dim, buckets, signs)

    def __str__(self) -> str:
        return f"sjlt:{self.dim}"


class SJLTSketch(Sketch):
    """All blocks add into the same `dim` buckets."""

    def __init__(self, dim: int, buckets: Sequence[Tensor], signs: Sequence[Tensor]) -> None:
        self.width, self.buckets, self.signs = dim, buckets, signs
        self.slots = (slice(0, dim),) * len(buckets)

    def left(self, block: int, side: Side) -> Side:
        """As it is: the hash is over the whole gradient."""
        return side

    def right(self, block: int, side: Side) -> Side:
        """As it is."""
        return side

    def emit(self, block: int, gradient: Float[Tensor, "batch p q"]) -> Float[Tensor, "batch w"]:
        """Signed sums of the buckets; parameters outermost, so that whole rows of examples are added."""
        signed = (gradient.flatten(1) * self.signs[block].to(gradient.dtype)).T
        total = torch.zeros(self.width, len(gradient), dtype=gradient.dtype, device=gradient.device)
        return total.index_add_(0, self.buckets[block], signed.contiguous()).T

    def whole(self, block: int, gradient: Float[Tensor, "batch rows cols"]) -> Float[Tensor, "batch w"]:
        """The same."""
        return self.emit(block, gradient)
