"""SOURCE: the training run approximately unrolled, segment by segment, with EK-FAC curvature.

    score(i, q) = (1/N) g_q^T sum_l [ prod_{l' = L..l+1} exp(-e_l' H_l') ] (I - exp(-e_l H_l)) H_l^-1 gbar_l(i)

over L segments of the run, `e_l` the sum of a segment's rates, `H_l` and `gbar_l(i)` the mean curvature and mean gradient
over its checkpoints. In EK-FAC's eigenbasis both matrix functions act on eigenvalues s: `exp(-e s)` and
`(1 - exp(-e s)) / s`, which is e at s = 0: no damping is needed. The query is walked back once, from the last segment.

Paper: Bae, Lin, Lorraine & Grosse 2024, NeurIPS (2405.12186), eq. 12 to 15, L = 3 and 6 checkpoints. One L and e -> infinity
is influence; e -> 0 is TracIn in nats. The paper's curvature averaged over checkpoints is here that of EK-FAC's factors
and eigenvalues summed over the segment's checkpoints.

Adam and AdamW: the run is linear in `P^-1/2 theta`, where curvature is `P^1/2 H P^1/2` with elementwise P (`curvature.path`),
which has no Kronecker form. Both ends keep the elementwise `P^1/2`; between them a block's P is its mean, so that EK-FAC's
basis stays (a form of ours: the paper's is for SGD; `path-krylov` needs no such form). Cost: C EK-FAC fits of two passes, and
C scans of the training data.
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from assay.curvature.base import Fit
from assay.curvature.ekfac import EKFAC, mean_ekfac
from assay.curvature.krylov import Function
from assay.curvature.path import Segment
from assay.curvature.spectral import Spectral
from assay.gradients.features import layout_for
from assay.index.build import PROBE
from assay.methods.gradient.unrolled import Stretch, Unrolled
from assay.tasks import Loss


@dataclass(frozen=True)
class Source(Unrolled):
    """The training run unrolled by segments, on EK-FAC curvature."""

    name: ClassVar[str] = "source"
    summary: ClassVar[str] = (
        "the training run unrolled by segments, on EK-FAC curvature averaged over their checkpoints"
    )
    paper: ClassVar[str] = "Bae et al. 2024 (2405.12186)"
    per_segment: ClassVar[int] = 2
    inside: ClassVar[slice] = slice(None)

    def walk(
        self, stretch: Stretch, u: Float[Tensor, "q params"]
    ) -> tuple[Float[Tensor, "q params"], Float[Tensor, "q params"]]:
        """By the eigenvalues of the mean EK-FAC."""
        segment, loss = stretch.segment, Loss(stretch.reduction)
        fits = [Fit(at, stretch.fitting, layout_for(at, stretch.fitting, loss, PROBE), loss) for at in stretch.models]
        curvature = in_coordinates(mean_ekfac(EKFAC(seed=self.seed), fits), segment)
        entered = segment.enter(u)
        learned = mapped(curvature, segment.learn).apply(entered)
        return segment.enter(learned), segment.leave(u, mapped(curvature, segment.forget).apply(entered))


def mapped(curvature: Spectral, function: Function) -> Spectral:
    """The operator with a function of its eigenvalues."""
    values = tuple(function(values.double()).to(values) for values in curvature.eigenvalues)
    return Spectral(curvature.blocks, curvature.bases, values)


def in_coordinates(curvature: Spectral, segment: Segment) -> Spectral:
    """`P (w Lam + inner) + outer` for each block, P the mean of its preconditioner (1 without)."""
    values: list[Tensor] = []
    for slot, lam in zip(curvature.slots, curvature.eigenvalues, strict=True):
        scale = 1.0 if segment.root is None else float(segment.root[slot].double().square().mean())
        values.append(scale * (segment.weight * lam + segment.inner) + segment.outer)
    return Spectral(curvature.blocks, curvature.bases, tuple(values))
