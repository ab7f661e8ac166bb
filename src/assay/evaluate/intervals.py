"""Confidence intervals by resampling."""

import numpy as np
from jaxtyping import Float

from assay.errors import MethodError

RESAMPLES = 2000


def bootstrap_mean(values: Float[np.ndarray, " n"], seed: int = 0, level: float = 0.95) -> tuple[float, float, float]:
    """The mean and its percentile bootstrap interval. One value alone has no interval but itself."""
    if not len(values):
        raise MethodError("A mean of no values was asked for; give at least one query.")
    draws = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    means = values[draws].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(values.mean()), float(low), float(high)
