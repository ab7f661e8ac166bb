"""Owen sampling: a random set in which each player is with probability q, and q spread evenly over [0, 1].

Shapley's value is the integral over q of the expected marginal contribution to such a set, the multilinear extension
(Owen 1972; Okhrati and Lipani 2021, 2010.12082). q is uniform in one of `CELLS` equal cells, the cells in turn, and the
complement of the set, a sample for 1 - q, is looked at in the same update (halved Owen sampling).

The size of the set without i is binomial given q, so uniform from 0 to n - 1 over all q.
"""

import numpy as np

from assay.methods.retrain.samplers.base import Flips, Sampler, Unit, stream

CELLS = 8


class Owen(Sampler):
    """2 (n + 1) evaluations an update."""

    name = "owen"

    def draw(self, n: int, seed: int, number: int) -> tuple[Unit, ...]:
        random = stream(seed, number)
        q = (number % CELLS + random.random()) / CELLS
        base = random.random(n) < q
        return Flips(base, np.arange(n)), Flips(~base, np.arange(n))
