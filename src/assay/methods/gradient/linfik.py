"""LinFiK, the linearised future influence kernel: what training on an example would do for a set of targets.

    score(i, q) = < P (g_q - beta m), g_i / |g_i| >,      P = 1 / sqrt(v + lam),      beta = < g_q, P m > / < m, P m >
    value_i = (1 / |D|) sum over q in D of  score(i, q)

with gradients `g` at the weights as they are, before the model has trained on i, of losses that are means over tokens; `m`, `v`: mean
and mean square of the pool's gradients, `lam` a tenth of v's mean in each block.

Why: Adam divides by the root of v, and its steps have a length of their own, whatever the batch. After a step of length eta along
`P s` the loss of q has fallen by `eta < g_q, P s > / |s|_P`, |s|_P^2 = < s, P s >; the score is the derivative of that, but for
`eta / |m|_P`, as the batch moves from the pool's mean, s = m, towards i. What any batch of the pool would teach is no merit:
above zero is better than the pool.

With `step="plain"` it is the product < g_i, g_q >: a step of SGD at rate eta on i alone lowers the loss of q by `eta score`, to
first order; rows with long gradients come first.

Paper: Pan et al. 2025, NAACL (arXiv 2503.01052), equation 3, whose kernel we read as the plain product; the normalised step is ours, as
selections by the product did worse than random ones (docs/methods/linfik.md). Cost of values: one pass that forms the gradients of
at most 1,024 rows of the pool, one gradient a target, whose mean is taken as they come, and one pass over the examples against one
direction; memory a few gradients, however many targets. Assumes that weights move little: examples that teach the same thing each
get the full value.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from assay.curvature.average import averages
from assay.curvature.base import Fit
from assay.curvature.spectral import Spectral
from assay.examples import Examples
from assay.gradients.blocks import Layout
from assay.gradients.features import OnNonfinite
from assay.methods.base import option
from assay.methods.gradient.base import GradientMethod, RowScale
from assay.methods.gradient.inverse import some
from assay.models import Model

SAMPLE = 1024
"""Rows of the pool, at most, of which its mean and mean square are taken."""


@dataclass(frozen=True)
class LinFiK(GradientMethod):
    """What an optimiser's step towards an example would do for the targets, before training on it."""

    name: ClassVar[str] = "linfik"
    summary: ClassVar[str] = "what a step towards an example would do for the targets, before training on it"
    paper: ClassVar[str] = "Pan et al. 2025 (2503.01052)"
    compresses: ClassVar[bool] = False

    train_loss: str = option("mean", "a training example's loss over its tokens", ("sum", "mean"))
    step: str = option(
        "normalised",
        "what training does: steps of a length of their own, as Adam's, from the pool's mean towards the example; or plain "
        "SGD on the example alone, the product of the gradients",
        ("normalised", "plain"),
    )

    def rows(self) -> RowScale:
        """Unit length, unless the step is plain."""
        return "norm" if self.step == "normalised" else "none"

    def linear(self) -> bool:
        """A query's side is linear in its gradient."""
        return True

    def fitted_state(self, model: Model, train: Examples, layout: Layout, stage: int) -> "Common | None":
        """Mean and mean square of the pool's gradients."""
        if self.step == "plain":
            return None
        rows = some(train, SAMPLE, self.seed)
        to = Fit(model, rows, layout, self.train_measurement(), cast(OnNonfinite, self.on_nonfinite))
        return Common.of(*averages(to), rows=len(rows), total=len(train))

    def query_side(self, psi: Float[Tensor, "q k"], state: Any, stage: int) -> Float[Tensor, "q k"]:
        """`P (psi - beta m)`."""
        return psi if state[stage] is None else state[stage](psi)

    def remarks(self, state: Any) -> tuple[str, ...]:
        """What stands for the pool."""
        if state is None or state.rows == state.total:
            return ()
        return (
            f"The pool's mean gradient and mean square are those of {state.rows:,} random rows of {state.total:,}.",
        )


@dataclass(frozen=True, eq=False)
class Common:
    """What a step on the pool as a whole does: `m`, `P m`, and `P` by the mean squares. Of `rows` of `total` examples."""

    mean: Float[Tensor, " k"]
    turned: Float[Tensor, " k"]
    squares: Spectral
    rows: int
    total: int

    @staticmethod
    def of(mean: Float[Tensor, " k"], squares: Spectral, rows: int, total: int) -> "Common":
        """With `P m`."""
        return Common(mean, _divided(mean[None], squares)[0], squares, rows, total)

    def __call__(self, psi: Float[Tensor, "q k"]) -> Float[Tensor, "q k"]:
        """`P (psi - beta m)`; products in float64, a query at a time."""
        whole = float(self.mean.double() @ self.turned.double())
        along = torch.stack([query.double() @ self.turned.double() for query in psi])
        beta = along / whole if whole > 0 else torch.zeros_like(along)
        return _divided(psi, self.squares) - beta.to(psi.dtype)[:, None] * self.turned.to(psi)


def _divided(psi: Float[Tensor, "q k"], squares: Spectral) -> Float[Tensor, "q k"]:
    """`psi / sqrt(v + lam)`."""
    return squares.power(psi, -0.5, squares.heuristic())
