"""Units of work, and what a sampler is."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float64, Int64

PATIENCE = 5
"""Prefixes in a row that have to be within the tolerance, as one may be so by chance."""


@dataclass(frozen=True)
class Truncation:
    """A walk ends where its last utilities are within `tolerance` of `goal`, the utility of everybody."""

    goal: float
    tolerance: float

    def reached(self, utilities: list[float]) -> bool:
        """Whether the walk that came to these utilities ends here."""
        last = utilities[-PATIENCE:]
        return len(last) == PATIENCE and all(abs(self.goal - value) < self.tolerance for value in last)


class Unit(ABC):
    """Coalitions that are evaluated one after the other, so that each fit can start from the last."""

    @abstractmethod
    def coalitions(self) -> Iterator[Bool[np.ndarray, " players"]]:
        """The masks, in order; each is valid until the next is asked for."""

    def over(self, utilities: list[float]) -> bool:
        """Whether the rest is left out, given the utilities so far."""
        return False

    @abstractmethod
    def __len__(self) -> int:
        """Coalitions at most."""


@dataclass(frozen=True, eq=False)
class Walk(Unit):
    """Players join one by one in `order`: the coalitions `base`, base + 1st, ..., of which the last may be left out.

    `most` is how many joined at most.
    """

    order: Int64[np.ndarray, " m"]
    base: Bool[np.ndarray, " players"] = field(repr=False)
    truncation: Truncation | None = None
    most: int | None = None

    def coalitions(self) -> Iterator[Bool[np.ndarray, " players"]]:
        mask = self.base.copy()
        yield mask
        for player in self.order[: self.most].tolist():
            mask[player] = True
            yield mask

    def over(self, utilities: list[float]) -> bool:
        return self.truncation is not None and self.truncation.reached(utilities)

    def __len__(self) -> int:
        return 1 + len(self.order[: self.most])


@dataclass(frozen=True, eq=False)
class Flips(Unit):
    """`base`, then for each of `players` the coalition in which that player has changed sides."""

    base: Bool[np.ndarray, " players"] = field(repr=False)
    players: Int64[np.ndarray, " m"]

    def coalitions(self) -> Iterator[Bool[np.ndarray, " players"]]:
        mask = self.base.copy()
        yield mask
        for player in self.players.tolist():
            mask[player] = not mask[player]
            yield mask
            mask[player] = not mask[player]

    def __len__(self) -> int:
        return 1 + len(self.players)


@dataclass(frozen=True, eq=False)
class Subsets(Unit):
    """Coalitions as they are."""

    masks: Bool[np.ndarray, "m players"] = field(repr=False)

    def coalitions(self) -> Iterator[Bool[np.ndarray, " players"]]:
        return iter(self.masks)

    def __len__(self) -> int:
        return len(self.masks)


class Sampler(ABC):
    """Draws units for a game of n players."""

    name: ClassVar[str]

    @abstractmethod
    def draw(self, n: int, seed: int, number: int) -> tuple[Unit, ...]:
        """What update `number` looks at; its units' samples are averaged, as they are not independent."""

    def sizes(self, n: int) -> Float64[np.ndarray, " n"]:
        """P(s): the chance that a player's marginal contribution is one to s others, s = 0 ... n - 1."""
        return np.full(n, 1.0 / n)


def stream(seed: int, number: int, purpose: int = 0) -> np.random.Generator:
    """Random numbers that follow from the seed and the number of the update."""
    return np.random.default_rng((seed, purpose, number))
