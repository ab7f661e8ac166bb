"""Stratified sampling: sizes in turn, and a random set of that size (Maleki et al. 2013, 1306.4265).

With |E| = k and k = 0 ... n equally often, the set without player i has each size from 0 to n - 1 equally often, and is
uniform among those of its size: a player is in E with probability k / n, so that P(|E - i| = s) is

    (1 - s / n) / (n + 1) + ((s + 1) / n) / (n + 1) = 1 / n.

A round of n + 1 updates visits every size once, in random order.
"""

import numpy as np

from assay.methods.retrain.samplers.base import Flips, Sampler, Unit, stream


class Stratified(Sampler):
    """n + 1 evaluations an update."""

    name = "stratified"

    def draw(self, n: int, seed: int, number: int) -> tuple[Unit, ...]:
        tour, place = divmod(number, n + 1)
        size = int(stream(seed, tour, purpose=1).permutation(n + 1)[place])
        base = np.zeros(n, bool)
        base[stream(seed, number).permutation(n)[:size]] = True
        return (Flips(base, np.arange(n)),)
