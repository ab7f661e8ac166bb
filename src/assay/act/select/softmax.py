"""Softmax sampling: drawn without replacement, P(next is i) in proportion to exp(z_i / temperature), z the standardised values.

With a temperature near 0 it is the hard cut with ties broken at random, with a high one it is random pruning. Invariant to shift and
scale of the values. Cost: a sort.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float64, Int64

from assay.act.select.pruning import Pruning, drawn
from assay.methods.base import option


@dataclass(frozen=True)
class Softmax(Pruning):
    """Draw in proportion to the exponential of standardised values."""

    name: ClassVar[str] = "softmax"
    summary: ClassVar[str] = "drawn without replacement in proportion to exp(standardised value / temperature)"
    paper: ClassVar[str] = "Anand et al. 2023 (EMNLP)"

    temperature: float = option(1.0, "small: nearly the hard cut; large: nearly random")

    def check(self) -> None:
        """Numbers out of range."""
        super().check()
        self.expect(self.temperature > 0, "temperature", "a number above 0")

    def pick(self, liking: Float64[np.ndarray, " m"], count: int, rng: np.random.Generator) -> Int64[np.ndarray, " k"]:
        """Drawn one after the other."""
        spread = liking.std() if len(liking) else 0.0
        z = (liking - liking.mean()) / spread if spread > 0 else np.zeros_like(liking)
        return drawn(z / self.temperature, count, rng)
