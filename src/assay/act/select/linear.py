"""Linear sampling: drawn without replacement, P(next is i) in proportion to the value rescaled to [floor, 1].

Every example has a chance, the least liked one `floor` times that of the most liked one. Invariant to shift and scale of the
values; one extreme value flattens all others. Cost: a sort.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float64, Int64

from assay.act.select.pruning import Pruning, drawn
from assay.methods.base import option


@dataclass(frozen=True)
class Linear(Pruning):
    """Draw in proportion to rescaled values."""

    name: ClassVar[str] = "linear"
    summary: ClassVar[str] = "drawn without replacement in proportion to the value, rescaled to [floor, 1]"
    paper: ClassVar[str] = "Anand et al. 2023 (EMNLP)"

    floor: float = option(0.01, "weight of the least liked example, of the most liked one's 1")

    def check(self) -> None:
        """Numbers out of range."""
        super().check()
        self.expect(0 < self.floor <= 1, "floor", "above 0 and at most 1")

    def weights(self, liking: Float64[np.ndarray, " m"]) -> Float64[np.ndarray, " m"]:
        """In [floor, 1]; all 1 where all are liked alike."""
        if not len(liking) or liking.max() == liking.min():
            return np.ones_like(liking)
        return self.floor + (1 - self.floor) * (liking - liking.min()) / (liking.max() - liking.min())

    def pick(self, liking: Float64[np.ndarray, " m"], count: int, rng: np.random.Generator) -> Int64[np.ndarray, " k"]:
        """Drawn one after the other."""
        return drawn(np.log(self.weights(liking)), count, rng)
