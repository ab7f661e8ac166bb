"""Shapley: the fair division of a utility over training examples, or over their sources.

    phi_i = mean over permutations of  U(P_i + i) - U(P_i),      P_i = those before i

The values sum to U(all) - U(empty), examples that always contribute the same get the same, and one that never
contributes gets 0. A permutation ends where five utilities in a row are within `tolerance` of U(all), relative to
|U(all) - U(empty)|; the rest of it counts as 0. Dividing by a signed range, as a released implementation does, would always
end at once where the whole is worth less than nothing.

Paper: Ghorbani and Zou 2019, ICML (arXiv 1904.02868), equation 1 and algorithm 1. Cost: at most n fits a permutation, two
permutations an update. Deviations: antithetic pairs; five utilities in a row instead of one, as one may be there by chance.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float64

from assay.methods.retrain.semivalue import Semivalue


@dataclass(frozen=True)
class Shapley(Semivalue):
    """Mean marginal contribution over random orders."""

    name: ClassVar[str] = "shapley"
    summary: ClassVar[str] = "mean marginal contribution over random orders: the fair division of the utility"
    paper: ClassVar[str] = "Ghorbani and Zou 2019 (1904.02868)"

    def weights(self, n: int) -> Float64[np.ndarray, " n"]:
        """All sizes alike."""
        return np.ones(n)
