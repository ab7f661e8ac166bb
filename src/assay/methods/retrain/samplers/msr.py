"""Maximum sample reuse: random sets, each of which says something about every player (Wang and Jia 2023, 2205.15466).

A player is in a set with probability `share`; the mean utility of the sets with it, less that of the sets without it.
"""

from dataclasses import dataclass
from typing import ClassVar

from assay.methods.retrain.samplers.base import Sampler, Subsets, Unit, stream

TOGETHER = 16
"""Sets drawn, and sent to a process, at once."""


@dataclass(frozen=True)
class MaximumReuse(Sampler):
    """`TOGETHER` evaluations a unit, each of which is an update of its own."""

    name: ClassVar[str] = "msr"

    share: float = 0.5

    def draw(self, n: int, seed: int, number: int) -> tuple[Unit, ...]:
        return (Subsets(stream(seed, number).random((TOGETHER, n)) < self.share),)
