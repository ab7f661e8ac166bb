"""Path-Krylov: SOURCE's matrix functions of the true Gauss-Newton matrix, from one Krylov basis a query and segment.

    u_L = grad L_q,   E u = (I - exp(-e H)) H^-1 u,   F u = exp(-e H) u,   H = the segment's Gauss-Newton matrix
    score(i, q) = (1/N) sum over segments l of  < E_l u_l, g_i(theta at the middle of segment l) >,     u_{l-1} = F_l u_l

as SOURCE (Bae et al. 2024, 2405.12186, eq. 12 to 15), with four changes, each for fidelity:

- H is not approximated by EK-FAC: E u and F u are taken of the exact Gauss-Newton matrix of some rows by m steps of
  Lanczos (`curvature.krylov`), so that layers and parameters act on each other as they do in training;
- H and the training gradients are those at the *middle* of each segment (the midpoint rule, of second order in the
  segment's length), so that a segment needs one scan instead of several;
- the last steps are replayed exactly (`methods.replay.tail`), as their order decides what of steep directions is left;
- with `removed` the run that is unrolled is the one at the mean of the counterfactuals, where it is most linear.

Adam and AdamW by their diagonal preconditioner, in whose coordinates H is symmetric; see `curvature.path`.

Cost: one training run; for each segment m products with the fitting rows (about `1 + 3 q` forward passes of them each)
and one scan of the training data. Memory: m vectors a query of a group (`GROUP`). Assumes that curvature and gradients
change slowly within a segment, and that the noise of batches averages out; neither needs convergence. Deviation from
exact replay, before the replayed end: the second derivative of Adam's preconditioner, dropout, clipping and the order within a
segment are left out.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from assay.curvature.gauss_newton import GaussNewton
from assay.curvature.krylov import lanczos
from assay.methods.base import option
from assay.methods.gradient.unrolled import Stretch, Unrolled
from assay.training import Recipe

REPLAYED = 0.05
"""Enough to have the last visits in their order: chosen on other data than is reported on, see the method's page."""
GROUP = 2**28
"""Numbers in the Krylov bases of the queries that go together (1 GiB of float32)."""


@dataclass(frozen=True)
class PathKrylov(Unrolled):
    """SOURCE on the exact Gauss-Newton matrix of each segment, by Lanczos."""

    name: ClassVar[str] = "path-krylov"
    summary: ClassVar[str] = "the training run unrolled by segments, on their exact Gauss-Newton matrices, by Lanczos"
    paper: ClassVar[str] = "ours, after SOURCE (Bae et al. 2024, 2405.12186)"
    per_segment: ClassVar[int] = 2
    inside: ClassVar[slice] = slice(0, 1)

    krylov: int = option(10, "products with the Gauss-Newton matrix for each segment")
    replayed: float | None = option(
        None,
        "share of the run, from its end, that is replayed exactly; by default 0.05 of a recipe's and 0 of a run given",
    )

    def check(self) -> None:
        """Also at least one product, and something left to unroll."""
        super().check()
        self.expect(self.krylov >= 1, "krylov", "at least 1")
        self.expect(self.replayed is None or 0 <= self.replayed < 1, "replayed", "a share of at least 0 and below 1")

    def share_replayed(self, given: Any) -> float:
        """As chosen; a finished run has no recording, so that nothing of it can be replayed."""
        if self.replayed is None:
            return REPLAYED if isinstance(given, Recipe) else 0.0
        return self.replayed

    def walk(
        self, stretch: Stretch, u: Float[Tensor, "q params"]
    ) -> tuple[Float[Tensor, "q params"], Float[Tensor, "q params"]]:
        """By Lanczos, for as many queries at once as fit."""
        segment, (model,) = stretch.segment, stretch.models
        matrix = GaussNewton.on(model, stretch.fitting, stretch.blocks, stretch.reduction)
        product = segment.curvature(matrix)
        learned: list[Tensor] = []
        before: list[Tensor] = []
        for some in torch.split(u, max(1, GROUP // (self.krylov * u.shape[1]))):
            space = lanczos(product, segment.enter(some), self.krylov)
            learned.append(segment.enter(space.apply(segment.learn)))
            before.append(segment.leave(some, space.apply(segment.forget)))
        return torch.cat(learned), torch.cat(before)
