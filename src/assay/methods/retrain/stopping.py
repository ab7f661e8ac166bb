"""When to stop sampling: small rules that combine, `StandardError(0.05) | Seconds(60)`.

`a | b` stops when either does, `a & b` when both do. As text: `stderr:0.05 | seconds:60`, `rank:0.01`, `top:10`,
`updates:500`, or `updates:10n` for ten an example.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from jaxtyping import Float64, Int64

from assay.errors import MethodError
from assay.ranking import membership

LEAST = 16
"""Samples of each value before its standard error is believed."""


@dataclass(frozen=True)
class State:
    """How far a run is: values, standard errors (infinite while unknown) and samples of each player; updates made;
    seconds since the start; and the values as they were at earlier moments, newest last.
    """

    values: Float64[np.ndarray, " n"]
    stderr: Float64[np.ndarray, " n"]
    counts: Int64[np.ndarray, " n"]
    updates: int
    seconds: float
    history: Sequence[tuple[int, Float64[np.ndarray, " n"]]] = field(default=(), repr=False)


class Stop(ABC):
    """A rule."""

    @abstractmethod
    def __call__(self, state: State) -> bool:
        """Whether to stop now."""

    def most(self, players: int) -> float:
        """Updates after which it stops in any case; infinite where that is not known."""
        return math.inf

    def __or__(self, other: "Stop") -> "Stop":
        return AnyOf((self, other))

    def __and__(self, other: "Stop") -> "Stop":
        return AllOf((self, other))


@dataclass(frozen=True)
class AnyOf(Stop):
    """Stops when one of the rules does."""

    rules: tuple[Stop, ...]

    def __call__(self, state: State) -> bool:
        return any(rule(state) for rule in self.rules)

    def most(self, players: int) -> float:
        return min(rule.most(players) for rule in self.rules)

    def __str__(self) -> str:
        return " | ".join(map(str, self.rules))


@dataclass(frozen=True)
class AllOf(Stop):
    """Stops when all rules do."""

    rules: tuple[Stop, ...]

    def __call__(self, state: State) -> bool:
        return all(rule(state) for rule in self.rules)

    def most(self, players: int) -> float:
        return max(rule.most(players) for rule in self.rules)

    def __str__(self) -> str:
        return " & ".join(map(str, self.rules))


@dataclass(frozen=True)
class StandardError(Stop):
    """The largest standard error is at most this share of the largest value, in size."""

    share: float

    def __call__(self, state: State) -> bool:
        if state.counts.min() < LEAST:
            return False
        return bool(state.stderr.max() <= self.share * np.abs(state.values).max())

    def __str__(self) -> str:
        return f"stderr:{self.share:g}"


@dataclass(frozen=True)
class RankStability(Stop):
    """Spearman's correlation with the values at half as many updates is at least 1 less this."""

    change: float

    def __call__(self, state: State) -> bool:
        earlier = [values for updates, values in state.history if updates <= state.updates / 2]
        if state.counts.min() < LEAST or not earlier or np.ptp(state.values) == 0 or np.ptp(earlier[-1]) == 0:
            return False
        from scipy import stats

        found: Any = cast(Any, stats).spearmanr(state.values, earlier[-1])
        return bool(found.statistic >= 1 - self.change)

    def __str__(self) -> str:
        return f"rank:{self.change:g}"


@dataclass(frozen=True)
class TopK(Stop):
    """Which players are the k best is decided: each is, or is not, with 95% confidence."""

    k: int

    def __call__(self, state: State) -> bool:
        if self.k >= len(state.values):
            return True
        if state.counts.min() < LEAST or state.updates % 8:  # a look costs more than some updates
            return False
        inside = membership(state.values, state.stderr, self.k, draws=512)
        return bool(np.minimum(inside, 1 - inside).max() <= 0.05)

    def __str__(self) -> str:
        return f"top:{self.k}"


@dataclass(frozen=True)
class Seconds(Stop):
    """So much time has gone by."""

    seconds: float

    def __call__(self, state: State) -> bool:
        return state.seconds >= self.seconds

    def __str__(self) -> str:
        return f"seconds:{self.seconds:g}"


@dataclass(frozen=True)
class Updates(Stop):
    """So many updates were made, each a permutation, a subset, or a pair of them; `each`: times the players."""

    updates: float
    each: bool = False

    def __call__(self, state: State) -> bool:
        return state.updates >= self.most(len(state.values))

    def most(self, players: int) -> float:
        return self.updates * (players if self.each else 1)

    def __str__(self) -> str:
        return f"updates:{self.updates:g}{'n' if self.each else ''}"


RULES: dict[str, Callable[[float], Stop]] = {
    "stderr": StandardError, "rank": RankStability, "top": lambda k: TopK(int(k)), "seconds": Seconds,
    "updates": Updates,
}  # fmt: skip


def parse_stop(given: str | Stop) -> Stop:
    """A rule from its text; `&` binds more than `|`. Raises MethodError."""
    if isinstance(given, Stop):
        return given
    parts = [[_rule(word.strip(), given) for word in part.split("&")] for part in given.split("|")]
    found = [rules[0] if len(rules) == 1 else AllOf(tuple(rules)) for rules in parts]
    return found[0] if len(found) == 1 else AnyOf(tuple(found))


def _rule(word: str, given: str) -> Stop:
    name, _, number = (part.strip() for part in word.partition(":"))
    each = name == "updates" and number.endswith("n")
    try:
        amount = float(number[:-1] if each else number)
        if name not in RULES or not 0 < amount < np.inf or (name == "top" and amount % 1):
            raise ValueError
    except ValueError:
        raise MethodError(
            f"The stopping rule {given!r} is not clear at '{word}'; expected stderr:0.05, rank:0.01, top:10, seconds:60, "
            "updates:500 or updates:10n, joined by | (any) and & (all)."
        ) from None
    return Updates(amount, True) if each else RULES[name](amount)
