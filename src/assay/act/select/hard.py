"""Hard cut: the examples at the other end of the values stay. Ties in the order of the data. Cost: a sort."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float64, Int64

from assay.act.select.pruning import Pruning


@dataclass(frozen=True)
class Hard(Pruning):
    """Keep one end of the values."""

    name: ClassVar[str] = "hard"
    summary: ClassVar[str] = "one end of the values, down to the budget"
    paper: ClassVar[str] = "Paul et al. 2021 (2107.07075)"
    draws: ClassVar[bool] = False

    def pick(self, liking: Float64[np.ndarray, " m"], count: int, rng: np.random.Generator) -> Int64[np.ndarray, " k"]:
        """The best `count`."""
        return np.argsort(-liking, kind="stable")[:count]
