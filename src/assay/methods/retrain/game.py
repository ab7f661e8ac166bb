"""A game: players, which are examples or groups of them, and the utility of every coalition.

A `Utility` says what a set of training rows is worth; it is immutable and can be sent to another process. An `Evaluator`
does the work there: it remembers its last fit, so that a set that differs in a row or two costs less than a new one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int64

from assay.errors import NonFiniteError

Rows = Bool[np.ndarray, " n"]


class Evaluator(ABC):
    """Utilities of one set of rows after the other."""

    failed: int = 0
    """Fits that were refused by the estimator; such a set counts as the prior."""

    def reset(self) -> None:
        """Forget the last fit. What follows does not depend on what was evaluated before."""
        return

    @abstractmethod
    def __call__(self, rows: Rows) -> float:
        """The utility of the rows where the mask is True; defined for every mask, also for the empty one."""


class Utility(ABC):
    """What a set of training rows is worth; higher is better."""

    n: int
    """Number of training rows."""

    notes: tuple[str, ...] = ()
    """What there is to tell of how it is computed."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Of data, model, scoring and seed; SHA-256, hexadecimal."""

    @abstractmethod
    def evaluator(self) -> Evaluator:
        """A new evaluator without memory."""


@dataclass(frozen=True)
class Function(Utility):
    """A game given by a function of the mask, such as a closed form."""

    n: int
    function: Callable[[Rows], float] = field(repr=False)
    name: str = "function"

    def fingerprint(self) -> str:
        """The name and the number of players: functions of one name are taken to be equal."""
        return f"{self.name}-{self.n}"

    def evaluator(self) -> Evaluator:
        """Calls the function."""
        return _Called(self.function)


class _Called(Evaluator):
    def __init__(self, function: Callable[[Rows], float]) -> None:
        self._function = function

    def __call__(self, rows: Rows) -> float:
        return float(self._function(rows))


@dataclass(frozen=True)
class Game:
    """`member[row]` is the player that a training row belongs to; None: every row is its own player."""

    utility: Utility
    member: Int64[np.ndarray, " n"] | None = None

    @cached_property
    def players(self) -> int:
        """Number of players."""
        return self.utility.n if self.member is None else int(self.member.max()) + 1

    def rows(self, coalition: Bool[np.ndarray, " players"]) -> Rows:
        """The training rows of a coalition."""
        return coalition if self.member is None else coalition[self.member]


def checked(value: float, rows: Rows) -> float:
    """The utility, which must be finite. Raises NonFiniteError."""
    if not np.isfinite(value):
        raise NonFiniteError(
            f"The utility of a set of {int(rows.sum())} training examples is {value}; expected a finite number. Choose "
            "another scoring, or a model that is defined for small sets."
        )
    return float(value)
