"""Loss variability: how much an example's loss moves along the run.

    d_i = standard deviation over observations of  L_i,        value_i = -d_i

Easy examples are fitted early and stay; what is hard or contradicted goes up and down. One of the scores that Anand et al. 2023
(EMNLP) compare for pruning. Cost: `runs` trainings; the logits are there already. Loss in nats, of texts the mean over their
predicted tokens; the standard deviation is that of the population.
"""

from dataclasses import dataclass
from typing import ClassVar

from assay.dynamics import Record
from assay.dynamics.record import spread_over
from assay.methods.dynamics.base import Found, Observed


@dataclass(frozen=True)
class LossVariability(Observed):
    """Standard deviation of an example's loss over the observations, negated."""

    name: ClassVar[str] = "loss-variability"
    summary: ClassVar[str] = "standard deviation of an example's loss along the run; unsteady examples come last"
    paper: ClassVar[str] = "Anand et al. 2023 (EMNLP)"
    least: ClassVar[int] = 2

    def of(self, record: Record) -> Found:
        """Of one run."""
        mean, spread = spread_over(self.column(record, "loss"))
        return Found(-spread, {"mean_loss": mean, "variability": spread})
