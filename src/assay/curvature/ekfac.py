"""EK-FAC: the eigenbasis of K-FAC with the eigenvalues that fit the gradients best.

    C = (Q_S kron Q_A) diag(Lam) (Q_S kron Q_A)^T,      Lam = mean over examples of (Q_S^T G Q_A)^2

George et al. 2018 (1806.03884), proposition 2: among all diagonals in that basis it is the one nearest to the Fisher
matrix in Frobenius norm. Grosse et al. 2023 (2308.03296), section 2.2. Blocks without sides have no factors and
get their diagonal. Cost: two forward and backward passes, the second without a language model's head unless that takes part;
tokens x (rows^2 + cols^2) in each, tokens x rows x cols in the second; rows^3 + cols^3 once, in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from assay.curvature.base import Curvature, Fit, accumulating
from assay.curvature.covariance import Covariances
from assay.curvature.eigenbasis import SquaresInBasis
from assay.curvature.kfac import KFAC, product
from assay.curvature.spectral import Spectral, squares_in
from assay.curvature.store import Workshop
from assay.curvature.sweep import sweep
from assay.tasks.head import heads_remembered


@dataclass(frozen=True)
class EKFAC(Curvature):
    """Corrected eigenvalues, in the eigenbasis of the factors."""

    name: ClassVar[str] = "ekfac"

    def fitted(self, to: Fit, workshop: Workshop) -> Spectral:
        """K-FAC for the bases, and a pass for the eigenvalues."""
        with heads_remembered([site.module for site in to.layout.sites]):
            factors = KFAC(self.fisher, self.seed).fit(to, workshop.inside("kfac"))
            assert isinstance(factors, Spectral)
            return squares_in(to, self.measured(to), factors.bases, workshop, "curvature, eigenvalues")


def mean_ekfac(choice: EKFAC, fits: Sequence[Fit]) -> Spectral:
    """EK-FAC of the mean curvature of several models (checkpoints of one run): their factors are added up, and in the
    eigenbasis of the sums their squares. Equal to one fit where there is one model.
    """
    device, dtype = fits[0].model.device, accumulating(fits[0].model)
    factors = Covariances(fits[0].layout.blocks, device)
    for fit in fits:
        sweep(fit.model, fit.examples, factors, choice.measured(fit), fit.layout, on_nonfinite=fit.on_nonfinite)
    bases = product(factors, dtype).bases
    squares = SquaresInBasis(fits[0].layout.blocks, bases, device)
    for fit in fits:
        sweep(fit.model, fit.examples, squares, choice.measured(fit), fit.layout, on_nonfinite=fit.on_nonfinite)
    return Spectral(fits[0].layout.blocks, bases, tuple(mean.to(dtype) for mean in squares.means()))
