"""Influence functions with a diagonal curvature.

    score(i, q) = (1/N) sum_p  g_q[p] g_i[p] / (mean_j g_j[p]^2 + lam)

Each parameter by itself, as in Kirkpatrick et al. 2017 (arXiv 1612.00796) for the Fisher diagonal. Cost: one pass to fit and
one to score. Blind to all that parameters of a layer do together; the cheapest curvature, and the one that others
have to beat.
"""

from dataclasses import dataclass
from typing import ClassVar

from assay.curvature.diagonal import Diagonal as Operator
from assay.methods.gradient.influence import InfluenceMethod


@dataclass(frozen=True)
class Diagonal(InfluenceMethod):
    """Influence by the diagonal of the Fisher matrix."""

    name: ClassVar[str] = "diagonal"
    summary: ClassVar[str] = "influence function with the diagonal of the Fisher matrix"
    paper: ClassVar[str] = "Kirkpatrick et al. 2017 (1612.00796)"

    def curvature(self) -> Operator:
        """Mean squared gradients."""
        return Operator(self._fisher(), self.seed)
