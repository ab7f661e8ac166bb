"""Leave-one-out: what the utility loses without the example, by training without it.

    phi_i = U(all) - U(all without i)

The definition that others approximate, and a poor value for sets: an example with a twin is worth nothing. The seeds of a
difference are the same on both sides; with `repeats` it is repeated with further seeds, whose spread is the standard error.

Classical (Cook 1977). Cost: n + 1 fits a seed; fewer steps where refits start from the last fit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from assay.methods.base import option
from assay.methods.retrain.base import Retraining, Session
from assay.methods.retrain.estimate import Estimate, Moments, contributions
from assay.methods.retrain.samplers import Flips, Unit
from assay.progress import task

TOGETHER = 32


@dataclass(frozen=True)
class LeaveOneOut(Retraining):
    """The utility with all examples less that with all but one."""

    name: ClassVar[str] = "loo"
    summary: ClassVar[str] = "what the utility loses when the example is left out of training"
    paper: ClassVar[str] = "Cook 1977"

    repeats: int = option(1, "training seeds, over which the mean and its standard error are taken")

    def check(self) -> None:
        """At least one seed."""
        super().check()
        self.expect(self.repeats >= 1, "repeats", "1 or more")

    def estimate(self, session: Session) -> Estimate:
        """One difference a player and seed."""
        n = len(session.players.table)
        moments = Moments(n)
        with task("leaving out", n * self.repeats) as advance:
            for seed in range(self.seed, self.seed + self.repeats):
                found = np.zeros(n)
                units = [Flips(np.ones(n, bool), np.arange(k, min(k + TOGETHER, n))) for k in range(0, n, TOGETHER)]
                with session.runner(seed) as runner:
                    for unit, (utilities,) in zip(units, runner.run(_draws(units)), strict=True):
                        players, _, marginals = contributions(unit, utilities)
                        found[players] = marginals
                        advance(len(players))
                moments.add(found, np.ones(n, bool))
        if self.repeats == 1:
            return Estimate(moments.mean, None, None, None, ("exact for one seed.",))
        notes = (f"mean over {self.repeats} training seeds.",)
        return Estimate(moments.mean, np.sqrt(moments.error), moments.variance, moments.count, notes)


def _draws(units: list[Flips]) -> Iterator[tuple[Unit, ...]]:
    return ((unit,) for unit in units)
