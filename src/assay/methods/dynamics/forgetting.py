"""Forgetting events: how often an example was learned and then lost.

    F_i = number of observations at which i is wrong and was right at the one before,        value_i = -F_i

An example that is never right is not "never forgotten" but the hardest: its F is infinite in the paper. A value must be a
number, so it gets -(number of observations), below every other, and `never_learned` flags it.

Paper: Toneva et al. 2019, ICLR (arXiv 1812.05159), section 3: at the visits of the batches. Fixed evaluations (`evaluations`) count
differently; when fine-tuning, evaluate every 50 steps or so, as two epochs have two visits only. Cost: `runs` trainings; the logits
are there already. Of texts with several predicted tokens, right is all of them right.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from assay.dynamics import Record
from assay.methods.dynamics.base import Found, Observed


@dataclass(frozen=True)
class Forgetting(Observed):
    """Number of times that an example was learned and lost, negated; never learned is below all."""

    name: ClassVar[str] = "forgetting"
    summary: ClassVar[str] = "how often an example was learned and lost again; those never learned come last"
    paper: ClassVar[str] = "Toneva et al. 2019 (1812.05159)"
    least: ClassVar[int] = 2

    def of(self, record: Record) -> Found:
        """Of one run."""
        correct = self.column(record, "correct")
        events, never = forgetting_events(correct)
        value = np.where(never, -float(len(correct)), -events.astype(np.float64))
        note = f"Never learned in the first run: {int(never.sum())} of {len(never)}; their value is {-float(len(correct)):g}."
        return Found(value, {"events": events.astype(np.float64), "never_learned": never.astype(np.float64)}, (note,))


def forgetting_events(correct: Float[np.ndarray, "k n"]) -> tuple[np.ndarray, np.ndarray]:
    """Events, and whether an example was never right; NaN is no observation."""
    lost = (correct[:-1] == 1) & (correct[1:] < 1)  # NaN is not below 1
    return lost.sum(0), ~(correct == 1).any(0)
