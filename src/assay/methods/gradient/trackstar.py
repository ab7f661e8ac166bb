"""TrackStar: cosines of gradients that were scaled by the optimiser's second moment and whitened.

    u = Proj(grad L / sqrt(V)),       R = a R_query + (1 - a) R_train,      R_x = mean u u^T, block by block
    score(i, q) = < unit(R^-1/2 u_i), unit(R^-1/2 u_q) >
                = u_i^T R^-1 u_q / sqrt(u_i^T R^-1 u_i * u_q^T R^-1 u_q)

The last line is what is computed: any root of R gives it, and no whitened row is kept. V is Adam's second moment at the
last checkpoint where it is known, else the mean squared gradient of up to 1,024 training examples; each entry plus 1e-6
of its block's mean. R is damped by a share of its mean eigenvalue, block by block, which the paper, with far more rows than
dimensions, does not need.

`a` weighs the *queries'* second moment (a reconstruction, confirmed by a test: a direction that all queries share loses
weight as `a` rises). By default, with the eigenvalues of all blocks sorted together, descending, and k = 1,000 of 65,536
dimensions, of fewer in proportion, and at most as many as the queries span,

    a = s_train[k] / (s_train[k] + s_query[k]),  at most 0.99

so that about k directions shared by the queries are weighed down. So scores depend on which queries are asked together;
with `mix=0` they do not.

Paper: Chang et al., Scalable Influence and Fact Tracing for Large Language Model Pretraining, 2024, ICLR 2025 (arXiv
2410.17413), section 3. Cost: a pass that forms each block's gradient; with k numbers a block N k^2 for R and k^3 / 3 for each
set of queries, and two passes over the index, one for the rows' lengths.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from assay.compress.elementwise import Scaled
from assay.curvature.blockwise import BlockDiagonal, BlockMoment, second_moments
from assay.index.reader import StoredIndex
from assay.methods.base import option
from assay.methods.gradient.base import GradientMethod, inverse
from assay.methods.gradient.blockwise import lengths, moments_of, slots_of
from assay.models import Model

SHARED = 1000 / 65536
"""Directions that queries may share, of all: the paper's choice."""
MOST = 0.99
"""The largest mixing weight that was published."""


@dataclass(frozen=True)
class TrackStar(GradientMethod):
    """Cosine of gradients scaled by the optimiser and whitened by a mixture of second moments."""

    name: ClassVar[str] = "trackstar"
    summary: ClassVar[str] = "cosine of gradients scaled by Adam's second moment and whitened for the task"
    paper: ClassVar[str] = "Chang et al. 2024 (2410.17413)"
    stores: ClassVar[bool] = True
    last_checkpoint: ClassVar[bool] = True

    compression: str = option("factored:32", "none (exact), factored:RANK, sjlt:DIM or eigen:RANK")
    damping: float = option(0.01, "added to the second moment of each block, as a share of its mean eigenvalue")
    mix: float | None = option(
        None, "weight of the queries' second moment in the whitening, 0 to 1; by default from the eigenvalues of both"
    )

    def check(self) -> None:
        """Damping keeps the inverse finite; a share is one."""
        super().check()
        self.expect(self.damping > 0, "damping", "a number above 0")
        self.expect(self.mix is None or 0 <= self.mix <= 1, "mix", "a number from 0 to 1")

    def train_compression(self) -> Scaled:
        """Scaled by `1 / sqrt(V)`, then projected."""
        base = self.compressor()
        return Scaled(seed=base.seed, base=base)

    def state(self, source: StoredIndex, model: Model) -> "Moments":
        """`R_train` of each block."""
        slots = slots_of(source, model, self.train_compression(), source.checkpoints - 1)
        moments = moments_of(source, source.checkpoints - 1, slots)
        return Moments(slots, moments, self.damping, source.header["fitted"][-1]["of"])

    def state_for(self, state: Any, psi: Float[Tensor, "c q k"]) -> "Moments":
        """With the inverse of R for these queries."""
        queries = second_moments([psi[-1]], state.slots, psi.shape[1])
        mix = mixing_weight(state.train, queries) if self.mix is None else self.mix
        mixed = [train.mixed(query, mix) for train, query in zip(state.train, queries, strict=True)]
        return replace(state, mix=mix, apply=BlockDiagonal.of(mixed, state.slots, self.damping))

    def query_side(self, psi: Float[Tensor, "q k"], state: Any, stage: int) -> Float[Tensor, "q k"]:
        """`R^-1 psi` over the length of `R^-1/2 psi`."""
        length = state.apply.quadratic(psi).sqrt()
        return state.apply(psi) * inverse(length).to(psi.dtype)[:, None]

    def row_factor(self, source: StoredIndex, state: Any) -> Float[Tensor, "..."] | None:
        """One over the length of `R^-1/2 phi`."""
        return inverse(lengths(source, source.checkpoints - 1, state.apply))

    def remarks(self, state: Any) -> tuple[str, ...]:
        """Where V comes from, and the mixing weight."""
        scaled = f"Gradients were scaled by {state.scaled_by}."
        return (scaled, f"The queries' second moment had the weight {state.mix:.3g} in the whitening.")


@dataclass(frozen=True)
class Moments:
    """`R_train` by block, and what scaled the gradients; for a set of queries the mixing weight and `R^-1`."""

    slots: tuple[slice, ...]
    train: tuple[BlockMoment, ...]
    damping: float
    scaled_by: str
    mix: float = 0.0
    apply: BlockDiagonal | None = None


def mixing_weight(train: Sequence[BlockMoment], queries: Sequence[BlockMoment]) -> float:
    """`a` at the k-th of the pooled eigenvalues, or at the last that the queries have; 0 if they have none."""
    of_train, of_queries = (
        torch.cat([m.eigenvalues() for m in part]).sort(descending=True)[0] for part in (train, queries)
    )
    known = int((of_queries > 1e-9 * of_queries[0]).sum())
    k = min(max(1, round(SHARED * sum(m.dim for m in train))), known, len(of_train))
    return min(float(of_train[k - 1] / (of_train[k - 1] + of_queries[k - 1])), MOST) if k else 0.0
