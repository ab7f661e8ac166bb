"""What the scores of one query would look like if they were random numbers.

    null(x) = Normal(median, spread^2),    spread = (upper quartile - lower quartile) / 1.349

These are the scores of the method `random`, which knows nothing, moved and scaled so that the middle half of
them coincides with the middle half of the real ones. Of n such scores all lie within

    median +- spread * z,    z = Phi^-1((1 + 0.95^(1/n)) / 2)

with probability 0.95, so what lies beyond is more than the extremes of chance. The quartiles are used because
the few examples that matter would widen a standard deviation. It describes how far the tails stand out; no more.
Cost: O(n).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr, ndtri

QUARTILES_APART = 1.349  # of the standard normal distribution
CHANCE = 0.95


@dataclass(frozen=True)
class Null:
    """The random null of n scores; `above` and `below` count those beyond `high` and `low`."""

    median: float
    spread: float
    low: float
    high: float
    above: int
    below: int
    count: int

    @classmethod
    def of(cls, scores: Float[np.ndarray, " n"]) -> "Null | None":
        """None if scores are so few or so often equal that there is no spread: the null would be one point."""
        if len(scores) < 2:
            return None
        lower, median, upper = np.quantile(scores.astype(np.float64), [0.25, 0.5, 0.75]).tolist()
        spread = (upper - lower) / QUARTILES_APART
        if spread <= 0:
            return None
        reach = spread * float(ndtri((1 + CHANCE ** (1 / len(scores))) / 2))
        low, high = median - reach, median + reach
        above, below = int((scores > high).sum()), int((scores < low).sum())
        return cls(median, spread, low, high, above, below, len(scores))

    def expected(self, edges: Float[np.ndarray, " m"]) -> np.ndarray:
        """How many of the n scores fall between consecutive edges, on average."""
        return self.count * np.diff(ndtr((edges - self.median) / self.spread))
