"""Dataset cartography: mean and spread of the probability that the model gives to an example's label along the run.

    confidence_i = mean over observations of p_y        variability_i = standard deviation of p_y        correctness_i = share right

Three regions: easy to learn (high confidence, low variability), ambiguous (high variability), hard to learn (low confidence, low
variability), among which wrong labels gather. `statistic` says which one the value is: -variability (the default: ambiguous
examples come last), confidence, or correctness; all three are in the table.

Paper: Swayamdipta et al. 2020, EMNLP (arXiv 2009.10795), section 2; probabilities at the end of each epoch (`evaluations` = epochs).
Cost: `runs` trainings; the logits are there already. The standard deviation is that of the population, as in the paper.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from assay.dynamics import Record
from assay.dynamics.record import spread_over
from assay.methods.base import option
from assay.methods.dynamics.base import Found, Observed


@dataclass(frozen=True)
class ConfidenceVariability(Observed):
    """Standard deviation of the label's probability, negated; or its mean, or the share of right answers."""

    name: ClassVar[str] = "confidence-variability"
    summary: ClassVar[str] = "dataset cartography: spread (or mean) of the label's probability along the run"
    paper: ClassVar[str] = "Swayamdipta et al. 2020 (2009.10795)"
    least: ClassVar[int] = 2

    statistic: str = option("variability", "what the value is", ("variability", "confidence", "correctness"))

    def of(self, record: Record) -> Found:
        """Of one run."""
        confidence, variability = spread_over(self.column(record, "probability"))
        correctness = np.nanmean(self.column(record, "correct"), 0)
        raw = {"confidence": confidence, "variability": variability, "correctness": correctness}
        return Found(-variability if self.statistic == "variability" else raw[self.statistic], raw)
