"""LoGra: influence functions on gradients projected layer by layer.

    phi_l = sum_t (B_l d_t)(A_l a_t)^T                                               k_o x k_i numbers a block
    F_l   = mean over training examples of phi_l phi_l^T,      lam_l = damping * mean eigenvalue of F_l
    score(i, q) = (1/N) sum over blocks l of  psi_l^T (F_l + lam_l I)^-1 phi_l

A, B: leading eigenvectors of the covariances of inputs and output gradients (`eigen:RANK`), or random (`factored:RANK`).
`relative=True` divides by the training example's own length, `sqrt(phi^T (F + lam I)^-1 phi)` (l-RelatIF).

Paper: Choe et al., What is Your Data Worth to GPT? LLM-Scale Data Valuation with Influence Functions, 2024 (arXiv
2405.13954), sections 3.1 and 3.2; l-RelatIF: Barshan et al. 2020 (arXiv 2003.11630), eq. 12. Cost: `tokens * k (in + out)`
above the floor of a pass; k^2 numbers a block and row in the index; N k^4 for F, k^6 / 3 once a block (N^2 k^2 and N^3 / 3
where there are fewer than k^2 rows); with `relative` one more pass over the index for each set of queries. F is the
empirical Fisher matrix, of the training labels. Assumes that blocks do not interact.

Deviations: the released code takes the first layer's damping for all and adds it in place; here each block has its own,
computed once.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from assay.curvature.blockwise import BlockDiagonal
from assay.index.reader import StoredIndex
from assay.methods.base import option
from assay.methods.gradient.base import GradientMethod, inverse
from assay.methods.gradient.blockwise import lengths, moments_of, slots_of
from assay.models import Model


@dataclass(frozen=True)
class LoGra(GradientMethod):
    """Projected gradients through the inverse of their second moment, block by block."""

    name: ClassVar[str] = "logra"
    summary: ClassVar[str] = "influence functions on gradients projected layer by layer"
    paper: ClassVar[str] = "Choe et al. 2024 (2405.13954)"
    stores: ClassVar[bool] = True

    compression: str = option("eigen:64", "none (exact), factored:RANK, sjlt:DIM or eigen:RANK")
    damping: float = option(0.1, "added to the second moment of each block, as a share of its mean eigenvalue")
    relative: bool = option(False, "divide by the training example's own length under the inverse (l-RelatIF)")

    def check(self) -> None:
        """Damping keeps the inverse finite."""
        super().check()
        self.expect(self.damping > 0, "damping", "a number above 0")

    def scale(self, rows: int) -> float:
        """One over the number of training examples."""
        return 1.0 / rows

    def state(self, source: StoredIndex, model: Model) -> BlockDiagonal:
        """`(F + lam I)^-1` at the last checkpoint of the index."""
        stage = source.checkpoints - 1
        slots = slots_of(source, model, self.train_compression(), stage)
        return BlockDiagonal.of(moments_of(source, stage, slots), slots, self.damping)

    def query_side(self, psi: Float[Tensor, "q k"], state: Any, stage: int) -> Float[Tensor, "q k"]:
        """`(F + lam I)^-1 psi`."""
        return state(psi)

    def row_factor(self, source: StoredIndex, state: Any) -> Float[Tensor, "..."] | None:
        """One over the length, if relative."""
        return inverse(lengths(source, source.checkpoints - 1, state)) if self.relative else None
