"""EK-FAC influence functions.

    V_q = Q_S [ (Q_S^T G_q Q_A) / (Lam + lam) ] Q_A^T   for every layer,      score(i, q) = (1/N) sum_l <V_q, G_i>
    A = mean a a^T = Q_A L_A Q_A^T,   S = mean d d^T = Q_S L_S Q_S^T,   Lam = mean over examples of (Q_S^T G Q_A)^2

Paper: Grosse et al., Studying Large Language Model Generalization with Influence Functions, 2023 (arXiv 2308.03296),
equations 19 to 22; George et al. 2018 (arXiv 1806.03884). Labels are drawn from the model, in the pass itself. Cost: two
passes to fit and one to score; factors of `in^2 + out^2 + in out` numbers a layer; `in^3 + out^3` once. Where the paper takes
the layers of the MLPs only, all parameters take part unless modules are chosen; `lam` is a tenth of the mean
eigenvalue of each layer, as there.
"""

from dataclasses import dataclass
from typing import ClassVar

from assay.curvature.ekfac import EKFAC as Operator
from assay.methods.gradient.influence import InfluenceMethod


@dataclass(frozen=True)
class EKFAC(InfluenceMethod):
    """Influence by eigenvalue-corrected Kronecker-factored curvature."""

    name: ClassVar[str] = "ekfac"
    summary: ClassVar[str] = "influence function with eigenvalue-corrected Kronecker-factored curvature"
    paper: ClassVar[str] = "Grosse et al. 2023 (2308.03296)"

    def curvature(self) -> Operator:
        """In the eigenbasis of K-FAC, eigenvalues measured."""
        return Operator(self._fisher(), self.seed)
