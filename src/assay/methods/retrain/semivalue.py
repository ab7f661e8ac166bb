"""Semivalues: averages of a player's marginal contributions, weighted by the size of the set that is joined.

    phi_i = (1 / n) sum_{j=1..n} w(j) D_j(i),      D_j(i) = mean over |S| = j - 1 of  U(S + i) - U(S)

Shapley, Beta Shapley and Banzhaf differ in w alone. A sampler gives marginal contributions to sets whose size is s with
probability P(s); each is a sample of phi_i once it is multiplied by  w(s + 1) / (n P(s)).  Few players are enumerated.
"""

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float64

from assay.methods.base import option
from assay.methods.retrain.base import Retraining, Session
from assay.methods.retrain.estimate import Estimate, Estimator, Marginals, Reused, forever, sample
from assay.methods.retrain.exact import all_utilities, exact_values
from assay.methods.retrain.pool import Runner
from assay.methods.retrain.samplers import MARGINAL, MaximumReuse, Sampler, Truncation, Unit, Walk
from assay.methods.retrain.stopping import Stop, parse_stop

SAMPLERS = tuple(kind.name for kind in MARGINAL)
NEGLIGIBLE = 1e-4
"""Share of a semivalue's weight that large sets may have and not be looked at."""
MOST_ENUMERATED = 20


@dataclass(frozen=True)
class Semivalue(Retraining):
    """A semivalue by exact enumeration or by sampling."""

    sampler: str = option("antithetic", "how coalitions are drawn", SAMPLERS)
    stop: str | Stop = option(  # noqa: RUF009 - a field
        "stderr:0.05 | updates:1000",
        "when to stop: stderr:SHARE, rank:CHANGE, top:K, seconds:S, updates:N, joined by | or &",
    )
    tolerance: float = option(
        0.01, "a permutation ends where its utility is within this share of the whole range of that of all; 0: never"
    )
    exact: int = option(12, "so many players or fewer are enumerated: 2^n fits; groups, up to 15 in any case; 0: never")

    def check(self) -> None:
        """Numbers out of range, and a stopping rule that cannot be read."""
        super().check()
        self.expect(0 <= self.tolerance < 1, "tolerance", "0 or more and below 1")
        self.expect(0 <= self.exact <= MOST_ENUMERATED, "exact", f"0 to {MOST_ENUMERATED}")
        parse_stop(self.stop)

    @abstractmethod
    def weights(self, n: int) -> Float64[np.ndarray, " n"]:
        """w(1), ..., w(n); their mean is 1."""

    def estimate(self, session: Session) -> Estimate:
        """Exact, or sampled."""
        with session.runner() as runner:
            n = runner.game.players
            most = max(self.exact, 15) if runner.game.member is not None and self.exact else self.exact
            if n <= most:
                return self._enumerated(runner)
            return self._sampled(runner)

    def _enumerated(self, runner: Runner) -> Estimate:
        utilities = all_utilities(runner)
        values = exact_values(utilities, self.weights(runner.game.players))
        notes = (f"exact: all {len(utilities):,} coalitions.", ends(utilities[-1], utilities[0], values))
        return Estimate(values, None, None, None, notes)

    def _sampled(self, runner: Runner) -> Estimate:
        n, sampler = runner.game.players, sampler_of(self.sampler)
        nobody = np.zeros(n, bool)
        everybody, empty = runner.utility(~nobody), runner.utility(nobody)
        weights = self.weights(n)
        estimator: Estimator = (
            Reused(n) if isinstance(sampler, MaximumReuse) else Marginals(n, weights / (n * sampler.sizes(n)))
        )
        most = horizon(weights)
        truncation = Truncation(everybody, self.tolerance * abs(everybody - empty)) if self.tolerance else None
        draws = map(partial(_shortened, truncation=truncation, most=most), forever(sampler, n, self.seed))
        updates, seconds = sample(runner, draws, estimator, parse_stop(self.stop), self.name)
        notes = [f"sampled: {updates:,} updates by {self.sampler} in {seconds:.1f} s (stop: {parse_stop(self.stop)})."]
        if estimator.truncated:
            notes.append(
                f"{estimator.truncated:.1%} of the marginal contributions were left out, as their permutation was within "
                f"{self.tolerance:.1%} of the range of the utility of all."
            )
        if isinstance(sampler.draw(n, self.seed, 0)[0], Walk) and most < n:
            notes.append(f"Sets of {most:,} and more have less than {NEGLIGIBLE:.2%} of the weight and were left out.")
        notes.append(ends(everybody, empty, estimator.values))
        return finished(estimator, notes)


def finished(estimator: Estimator, notes: Any) -> Estimate:
    """What an estimator has come to."""
    stderr = estimator.stderr
    known = stderr if np.isfinite(stderr).all() else None
    return Estimate(estimator.values, known, estimator.variance, estimator.counts, tuple(notes))


def sampler_of(name: str) -> Sampler:
    """A sampler by name."""
    return next(kind() for kind in (*MARGINAL, MaximumReuse) if kind.name == name)


def horizon(weights: Float64[np.ndarray, " n"]) -> int:
    """How many players need to join: the sets beyond have a negligible weight."""
    beyond = np.cumsum(weights[::-1])[::-1] / weights.sum()
    return int(np.count_nonzero(beyond > NEGLIGIBLE))


def ends(everybody: float, empty: float, values: Float64[np.ndarray, " n"]) -> str:
    """The utilities of all and of nobody, and what the values add up to."""
    return f"U(all) = {everybody:.6g}, U(empty) = {empty:.6g}, sum of the values = {values.sum():.6g}."


def _shortened(units: tuple[Unit, ...], truncation: Truncation | None, most: int) -> tuple[Unit, ...]:
    return tuple(replace(unit, truncation=truncation, most=most) if isinstance(unit, Walk) else unit for unit in units)


__all__ = ["Semivalue", "ends", "finished", "horizon", "sampler_of"]
