"""Totals per source, with what its size alone would bring."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64

SHOWN_FIRST, SHOWN_LAST = 20, 10  # of very many sources, so many from both ends of the order


@dataclass(frozen=True)
class SourceLine:
    """One source.

    `total` and `mean` are over its `count` examples, `error` is the mean's standard error; all None where the
    run does not hold every score. `helpful` and `harmful` count its places among the top ones of the queries,
    `by_size` the helpful places that it would have if only its share of the examples mattered.
    """

    name: str | None
    count: int | None = None
    helpful: int = 0
    harmful: int = 0
    by_size: float | None = None
    total: float | None = None
    mean: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class SourceTable:
    """The shown lines of `sources`; those left out would stand after the `first` ones."""

    lines: Sequence[SourceLine]
    first: int
    sources: int

    @property
    def left_out(self) -> int:
        """How many sources are not shown."""
        return self.sources - len(self.lines)

    @property
    def has_totals(self) -> bool:
        """Whether totals and means are known."""
        return any(line.total is not None for line in self.lines)

    @property
    def has_counts(self) -> bool:
        """Whether it is known how many examples each source has."""
        return any(line.count is not None for line in self.lines)

    def width(self, column: str, line: SourceLine) -> float:
        """The bar of a line in percent of the longest one of its column."""
        numbers = [abs(getattr(other, column) or 0.0) for other in self.lines]
        return 100 * abs(getattr(line, column) or 0.0) / (max(numbers, default=0.0) or 1.0)


@dataclass(frozen=True)
class Grouping:
    """Which of `names` each example belongs to, and how many belong to each; `whole`: all examples are there."""

    names: Sequence[str | None]
    member: Int64[np.ndarray, " n"]
    count: Int64[np.ndarray, " m"]
    whole: bool

    @classmethod
    def of(cls, sources: Sequence[str | None], whole: bool) -> "Grouping":
        """Group examples by their sources, which stay in the order of their first example."""
        names = list(dict.fromkeys(sources))
        group = {name: j for j, name in enumerate(names)}
        member = np.array([group[source] for source in sources], dtype=np.int64)
        return cls(names, member, np.bincount(member, minlength=len(names)), whole)

    @property
    def known(self) -> bool:
        """Whether any example has a source."""
        return any(name is not None for name in self.names)

    def share(self, source: str) -> float:
        """The share of the examples that come from a source."""
        return self.count[self.names.index(source)] / len(self.member) if source in self.names else 0.0

    def table(
        self,
        numbers: Float64[np.ndarray, " n"] | None,
        helpful: Int64[np.ndarray, " places"],
        harmful: Int64[np.ndarray, " lower_places"],
        first: int = SHOWN_FIRST,
        last: int = SHOWN_LAST,
    ) -> SourceTable | None:
        """Lines in the order of their totals, or of their places if there are none; None without sources.

        `numbers` holds one number per example (its score summed over queries, or its value), `helpful` and
        `harmful` the example at each place among the top ones.
        """
        if not self.known:
            return None
        places = [np.bincount(self.member[rows], minlength=len(self.names)) for rows in (helpful, harmful)]
        totals = None if numbers is None else self._totals(numbers)
        order = np.lexsort((places[1], -places[0])) if totals is None else np.argsort(-totals[0], kind="stable")
        cut = len(order) > first + last + 1  # a single line less would only be replaced by the line that says so
        if cut:
            order = np.concatenate([order[:first], order[len(order) - last :]])
        lines = [self._line(j, len(helpful), places, totals) for j in order.tolist()]
        return SourceTable(lines, first if cut else len(lines), len(self.names))

    def _totals(self, numbers: Float64[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Total, mean, and the mean's standard error, of each source."""
        total = np.bincount(self.member, numbers, minlength=len(self.names))
        mean = total / self.count
        squares = np.bincount(self.member, (numbers - mean[self.member]) ** 2, minlength=len(self.names))
        return total, mean, np.sqrt(squares / np.maximum(self.count - 1, 1) / self.count)

    def _line(
        self, j: int, top: int, places: Sequence[np.ndarray], totals: tuple[np.ndarray, ...] | None
    ) -> SourceLine:
        count = int(self.count[j])
        line = SourceLine(self.names[j], helpful=int(places[0][j]), harmful=int(places[1][j]))
        if self.whole:
            line = replace(line, count=count, by_size=count / len(self.member) * top)
        if totals is None:
            return line
        total, mean, error = (float(column[j]) for column in totals)
        return replace(line, total=total, mean=mean, error=error if count > 1 else None)
