"""Permutation sampling: everybody joins in a random order (Castro et al. 2009; Ghorbani and Zou 2019, 1904.02868).

n evaluations give every player one marginal contribution, to a set whose size is uniform from 0 to n - 1.
"""

import numpy as np

from assay.methods.retrain.samplers.base import Sampler, Unit, Walk, stream


class Permutation(Sampler):
    """One random order an update."""

    name = "permutation"

    def draw(self, n: int, seed: int, number: int) -> tuple[Unit, ...]:
        return (Walk(stream(seed, number).permutation(n).astype(np.int64), np.zeros(n, bool)),)
