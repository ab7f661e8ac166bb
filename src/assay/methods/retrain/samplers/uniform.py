"""Uniform sampling: a random set, each player in it with probability 1/2, and every player changing sides once.

The set without player i is uniform among those without i: just what Data Banzhaf weighs. Other semivalues correct for
the binomial sizes, at the price of variance at the very small and very large ones.
"""

import numpy as np
from jaxtyping import Float64

from assay.methods.retrain.samplers.base import Flips, Sampler, Unit, stream


class Uniform(Sampler):
    """n + 1 evaluations an update."""

    name = "uniform"

    def draw(self, n: int, seed: int, number: int) -> tuple[Unit, ...]:
        return (Flips(stream(seed, number).random(n) < 0.5, np.arange(n)),)

    def sizes(self, n: int) -> Float64[np.ndarray, " n"]:
        """Binomial: the others are in with probability 1/2 each."""
        from scipy.stats import binom  # not at the top: importing assay stays light

        return np.asarray(binom.pmf(np.arange(n), n - 1, 0.5), dtype=np.float64)
