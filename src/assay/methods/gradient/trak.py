"""TRAK: a datamodel estimate by linearising the model to a logistic regression on projected gradients.

    f = log(p / (1 - p))                      the margin of the target, whose gradients are the features
    phi_c(i) = projected grad f_i at model c, rows of Phi_c
    score(i, q) = [mean_c (1 - p_c(i))] * [mean_c phi_c(i)^T (Phi_c^T Phi_c + lam I)^-1 phi_c(q)]

the two means taken apart, as the authors' code does. The paper has lam = 0; ours is the mean of the diagonal by
default, which predicts retraining about twice as well (docs/methods/trak.md). `newton=True` weights the Gram matrix by
`p(1 - p)`, the Hessian of the logistic regression (give `damping` = N x weight decay): then a score is the change of q's
margin when i leaves, up to i's leverage. For a language model f is the sum of the token margins and 1 - p their mean.

Paper: Park et al., TRAK: Attributing Model Behavior at Scale, 2023 (arXiv 2303.14186), eq. 13-17. Cost: M models x
(N + Q) gradients, a Gram matrix of N k^2 and its factorisation k^3, in float64. Checkpoints should be independently
trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from assay.curvature.gram import cholesky
from assay.errors import MethodError
from assay.index.reader import StoredIndex
from assay.methods.base import option
from assay.methods.gradient.base import GradientMethod, RowScale
from assay.models import Model
from assay.tasks import Choosable, Margin, Measurement, negative


@dataclass(frozen=True)
class TRAK(GradientMethod):
    """Projected margin gradients through the inverse of their Gram matrix, times the residual."""

    name: ClassVar[str] = "trak"
    summary: ClassVar[str] = "projected margin gradients through their inverse Gram matrix, averaged over an ensemble"
    paper: ClassVar[str] = "Park et al. 2023 (2303.14186)"
    every_checkpoint: ClassVar[bool] = True
    row_scale: ClassVar[RowScale] = "miss"
    stores: ClassVar[bool] = True

    compression: str = option("sjlt:2048", "none (exact), factored:RANK, sjlt:DIM or eigen:RANK")
    measure: Choosable = option(  # noqa: RUF009 - a field
        "margin", "what of a query is explained: loss, margin, log-odds:TOKEN, contrast; in Python also a function"
    )
    damping: float | None = option(None, "added to the Gram matrix; by default its mean diagonal")
    newton: bool = option(False, "weight the Gram matrix by p(1 - p), which calibrates the size of the scores")

    def check(self) -> None:
        """Damping is not negative."""
        super().check()
        number = self.damping is None or (isinstance(cast(object, self.damping), (int, float)) and self.damping >= 0)
        self.expect(number, "damping", "a number of at least 0")

    def train_measurement(self) -> Measurement:
        """The margin; over tokens as `train_loss` says."""
        return Margin("mean" if self.train_loss == "mean" else "sum")

    def query_measurement(self) -> Measurement:
        """The margin, or another one; over tokens as `query_loss` says. Of a training example the margin is taken, which
        a step raises, so of a query too what is to be raised.
        """
        return negative(super().query_measurement())

    def weights(self, rates: Sequence[float]) -> list[float]:
        """A mean over the ensemble."""
        return [1.0 / len(rates) for _ in rates]

    def state(self, source: StoredIndex, model: Model) -> list[Float64[Tensor, "k k"]]:
        """The Cholesky factor of each checkpoint's Gram matrix."""
        return [self._factor(source, stage) for stage in range(source.checkpoints)]

    def query_side(self, psi: Float[Tensor, "q k"], state: Any, stage: int) -> Float[Tensor, "q k"]:
        """`(Phi^T Phi + lam I)^-1 psi`."""
        return torch.cholesky_solve(psi.double().T, state[stage]).T.float()

    def _factor(self, index: StoredIndex, stage: int) -> Float64[Tensor, "k k"]:
        """Of `Phi^T Phi + lam I`, or of `Phi^T diag(p (1 - p)) Phi + lam I`."""
        if index.dim > MOST_DIMENSIONS:
            raise MethodError(
                f"trak inverts a matrix of {index.dim:,} x {index.dim:,} numbers, one dimension for each number of a "
                f"feature; at most {MOST_DIMENSIONS:,} were expected. Compress more: compression='sjlt:2048'."
            )
        gram = self._gram(index, stage)
        usual = float(gram.diagonal().mean())
        factor = cholesky(gram, usual if self.damping is None else self.damping)
        if factor is None:
            raise MethodError(
                f"The Gram matrix of {index.rows} examples in {index.dim} dimensions is singular. Give damping (for "
                f"example {usual:.2g}), a smaller projection, or more examples."
            )
        return factor

    def _gram(self, index: StoredIndex, stage: int) -> Float64[Tensor, "k k"]:
        gram = torch.zeros(index.dim, index.dim, dtype=torch.float64)
        miss = index.stats("miss")[stage].double()
        for tile in index.tiles(stage):
            phi = tile.features.double()
            m = miss[tile.start : tile.start + len(phi)]
            gram += phi.T @ (phi * (m * (1 - m))[:, None] if self.newton else phi)
        return gram


MOST_DIMENSIONS = 2**15
"""Of the Gram matrix (8 GiB)."""
