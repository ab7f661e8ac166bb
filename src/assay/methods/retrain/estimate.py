"""From utilities to values: what is averaged over samples, and the loop that samples until a rule stops it."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from assay.methods.retrain.pool import Runner
from assay.methods.retrain.samplers import Flips, Sampler, Subsets, Unit, Walk
from assay.methods.retrain.stopping import State, Stop
from assay.progress import say, task

SNAPSHOTS = 64


class Moments:
    """Mean and squared deviations of samples of each player, in one pass (Welford 1962); float64."""

    def __init__(self, n: int) -> None:
        self.count = np.zeros(n, np.int64)
        self.mean = np.zeros(n)
        self._squares = np.zeros(n)

    def add(self, sample: Float64[np.ndarray, " n"], seen: Bool[np.ndarray, " n"]) -> None:
        """One sample of each player that was seen."""
        self.count += seen
        apart = np.where(seen, sample - self.mean, 0.0)
        self.mean += apart / np.maximum(self.count, 1)
        self._squares += apart * (sample - self.mean)

    @property
    def variance(self) -> Float64[np.ndarray, " n"]:
        """Of a sample; infinite while it is not known."""
        known = np.maximum(self._squares, 0.0) / np.maximum(self.count - 1, 1)
        return np.where(self.count > 1, known, np.inf)

    @property
    def error(self) -> Float64[np.ndarray, " n"]:
        """The mean's standard error squared."""
        return self.variance / np.maximum(self.count, 1)


class Estimator(ABC):
    """Collects samples of every player's value."""

    truncated: float = 0.0
    """Share of the marginal contributions that were not evaluated and count as 0."""

    @abstractmethod
    def add(self, units: Sequence[Unit], utilities: Sequence[Float64[np.ndarray, " _"]]) -> int:
        """Take one draw in; how many updates it is."""

    @property
    @abstractmethod
    def values(self) -> Float64[np.ndarray, " n"]:
        """As they are now."""

    @property
    @abstractmethod
    def stderr(self) -> Float64[np.ndarray, " n"]:
        """Of the values; infinite while not known."""

    @property
    @abstractmethod
    def variance(self) -> Float64[np.ndarray, " n"]:
        """Of one sample."""

    @property
    @abstractmethod
    def counts(self) -> Int64[np.ndarray, " n"]:
        """Samples of each player."""


class Marginals(Estimator):
    """Mean of `coefficients[s]` times the marginal contribution to a set of s others."""

    def __init__(self, n: int, coefficients: Float64[np.ndarray, " sizes"]) -> None:
        self._coefficients, self._moments = coefficients, Moments(n)
        self._skipped = self._all = 0

    def add(self, units: Sequence[Unit], utilities: Sequence[Float64[np.ndarray, " _"]]) -> int:
        """The mean over a draw's units is one sample."""
        n = len(self._moments.mean)
        total, seen = np.zeros(n), np.zeros(n, np.int64)
        for unit, found in zip(units, utilities, strict=True):
            players, sizes, marginals = contributions(unit, found)
            total[players] += self._coefficients[sizes] * marginals
            everybody = unit.order if isinstance(unit, Walk) else players
            seen[everybody] += 1
            self._all += len(everybody)
            if isinstance(unit, Walk):
                self._skipped += len(unit.order[: unit.most]) - len(players)
        self._moments.add(total / np.maximum(seen, 1), seen > 0)
        self.truncated = self._skipped / max(self._all, 1)
        return 1

    @property
    def values(self) -> Float64[np.ndarray, " n"]:
        return self._moments.mean.copy()

    @property
    def stderr(self) -> Float64[np.ndarray, " n"]:
        return np.sqrt(self._moments.error)

    @property
    def variance(self) -> Float64[np.ndarray, " n"]:
        return self._moments.variance

    @property
    def counts(self) -> Int64[np.ndarray, " n"]:
        return self._moments.count.copy()


def contributions(
    unit: Unit, utilities: Float64[np.ndarray, " m"]
) -> tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
    """Players, the sizes of the sets they came to, and their marginal contributions."""
    if isinstance(unit, Walk):
        joined = len(utilities) - 1
        return unit.order[:joined], np.arange(joined), np.diff(utilities)
    if not isinstance(unit, Flips):
        raise TypeError(f"A {type(unit).__name__} has no marginal contributions.")
    inside = unit.base[unit.players]
    marginals = np.where(inside, 1.0, -1.0) * (utilities[0] - utilities[1:])
    return unit.players, int(unit.base.sum()) - inside.astype(np.int64), marginals


class Reused(Estimator):
    """Mean utility of the sets with a player less that of the sets without."""

    def __init__(self, n: int) -> None:
        self._with, self._without = Moments(n), Moments(n)

    def add(self, units: Sequence[Unit], utilities: Sequence[Float64[np.ndarray, " _"]]) -> int:
        """Every set is an update."""
        done = 0
        for unit, found in zip(units, utilities, strict=True):
            if not isinstance(unit, Subsets):
                raise TypeError(f"A {type(unit).__name__} is no sample of sets.")
            for mask, utility in zip(unit.masks, found.tolist(), strict=True):
                sample = np.full(len(mask), utility)
                self._with.add(sample, mask)
                self._without.add(sample, ~mask)
                done += 1
        return done

    @property
    def values(self) -> Float64[np.ndarray, " n"]:
        return self._with.mean - self._without.mean

    @property
    def stderr(self) -> Float64[np.ndarray, " n"]:
        return np.sqrt(self._with.error + self._without.error)

    @property
    def variance(self) -> Float64[np.ndarray, " n"]:
        return self._with.variance + self._without.variance

    @property
    def counts(self) -> Int64[np.ndarray, " n"]:
        return np.minimum(self._with.count, self._without.count)


@dataclass(frozen=True)
class Estimate:
    """What came out. `variance` and `stderr` are None for exact values; `notes` says how it was found."""

    values: Float64[np.ndarray, " n"]
    stderr: Float64[np.ndarray, " n"] | None
    variance: Float64[np.ndarray, " n"] | None
    counts: Int64[np.ndarray, " n"] | None
    notes: tuple[str, ...]


def sample(
    runner: Runner, draws: Iterator[tuple[Unit, ...]], estimator: Estimator, stop: Stop, label: str
) -> tuple[int, float]:
    """Draw until the rule stops it: how many updates were made, and in how many seconds."""
    start, updates = time.perf_counter(), 0
    history: list[tuple[int, Float64[np.ndarray, " n"]]] = []
    seen: list[tuple[Unit, ...]] = []
    most = stop.most(runner.game.players)

    def remembered() -> Iterator[tuple[Unit, ...]]:
        for units in draws:
            if not seen and not updates:
                say(_announced(units, runner, stop, most))
            seen.append(units)
            yield units

    with task(f"{label}, updates", None if math.isinf(most) else most) as advance:
        for utilities in runner.run(remembered()):
            new = estimator.add(seen.pop(0), utilities)
            updates += new
            advance(new)
            seconds = time.perf_counter() - start
            values = estimator.values
            if stop(State(values, estimator.stderr, estimator.counts, updates, seconds, history)):
                break
            if not history or updates >= 1.05 * history[-1][0]:
                history = [*history[-SNAPSHOTS:], (updates, values)]
    return updates, time.perf_counter() - start


def _announced(units: tuple[Unit, ...], runner: Runner, stop: Stop, most: float) -> str:
    """What is ahead, and how to go on after an interruption."""
    size = sum(1 if isinstance(unit, Subsets) else len(unit) for unit in units)
    each = "one fit" if size == 1 else f"up to {size:,} fits"
    told = f"{runner.game.players:,} players; stops at {stop}; an update is {each}"
    told += "." if math.isinf(most) else f", {most * size:,.0f} at most."
    return told if runner.cache.lasting else f"{told} With a cache (cache=, --cache) an interrupted run can go on."


def forever(sampler: Sampler, n: int, seed: int) -> Iterator[tuple[Unit, ...]]:
    """A sampler's draws."""
    number = 0
    while True:
        yield sampler.draw(n, seed, number)
        number += 1
