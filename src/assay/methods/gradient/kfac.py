"""K-FAC influence functions: EK-FAC without the correction of the eigenvalues.

    V_q = Q_S [ (Q_S^T G_q Q_A) / (T outer(L_S, L_A) + lam) ] Q_A^T,      score(i, q) = (1/N) sum_l <V_q, G_i>

`T` is the number of positions an example. Paper: Martens & Grosse 2015 (arXiv 1503.05671). Cost: one pass to fit and one to
score. Supposes that a layer's inputs are independent of the gradients at its outputs, which costs accuracy; it is
here to see how much.
"""

from dataclasses import dataclass
from typing import ClassVar

from assay.curvature.kfac import KFAC as Operator
from assay.methods.gradient.influence import InfluenceMethod


@dataclass(frozen=True)
class KFAC(InfluenceMethod):
    """Influence by Kronecker-factored curvature."""

    name: ClassVar[str] = "kfac"
    summary: ClassVar[str] = "influence function with Kronecker-factored curvature"
    paper: ClassVar[str] = "Martens & Grosse 2015 (1503.05671)"

    def curvature(self) -> Operator:
        """Products of the factors' eigenvalues."""
        return Operator(self._fisher(), self.seed)
