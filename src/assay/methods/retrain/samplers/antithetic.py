"""Antithetic sampling: a random order, and the same backwards (Mitchell et al. 2022, 2104.12199, section 2.4).

Who joins early in one joins late in the other, so that the errors of the two tend to cancel: a pair is one sample, whose
variance is mostly less than half of a single order's, for twice the evaluations.
"""

import numpy as np

from assay.methods.retrain.samplers.base import Sampler, Unit, Walk, stream


class Antithetic(Sampler):
    """One random order and its reverse an update."""

    name = "antithetic"

    def draw(self, n: int, seed: int, number: int) -> tuple[Unit, ...]:
        order, base = stream(seed, number).permutation(n).astype(np.int64), np.zeros(n, bool)
        return Walk(order, base), Walk(order[::-1].copy(), base)
