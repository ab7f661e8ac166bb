"""What every metric returns: an estimate for each method, and the paired difference of the first to each other one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from assay.errors import MethodError
from assay.evaluate.intervals import Interval, one_way, two_way
from assay.scores import Scores
from assay.values import Values

Kind = TypeVar("Kind", Scores, Values)


@dataclass(frozen=True)
class Comparison:
    """Methods by one metric, on the same queries and subsets.

    Args:
        metric, unit: what the numbers are.
        rows: by method, the mean with its interval.
        against: by method other than the first, the first's less its, query by query and subset by subset.
        per_query: by method, the metric of each query.
        facts: what else was found, such as the noise ceiling.
        higher: whether higher is better.
    """

    metric: str
    unit: str
    rows: Mapping[str, Interval]
    against: Mapping[str, Interval]
    per_query: Mapping[str, Float[np.ndarray, " q"]] = field(repr=False)
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    higher: bool = True

    @property
    def mean(self) -> float:
        """Of the first method."""
        return self.first.mean

    @property
    def first(self) -> Interval:
        """The first method's estimate."""
        return next(iter(self.rows.values()))

    def better(self, name: str) -> float:
        """The share of resamples in which the first method is better than `name`."""
        above = self.against[name].above
        return above if self.higher else 1 - above

    @property
    def text(self) -> str:
        """A plain statement."""
        name, first = next(iter(self.rows.items()))
        parts = [f"{name} has {self.metric} {first.mean:+.3f} (95% interval {first.low:+.3f} to {first.high:+.3f})"]
        parts += [f"{self._beats(other)} than {other} with {_percent(max(p := self.better(other), 1 - p))} of resamples "
                  f"({'' if row.mean < 0 else '+'}{row.mean:.3f}, {row.low:+.3f} to {row.high:+.3f})"
                  for other, row in self.against.items()]  # fmt: skip
        return "; ".join(parts) + "."

    def _beats(self, other: str) -> str:
        return "better" if self.better(other) >= 0.5 else "worse"

    def evidence(self) -> dict[str, Any]:
        """In terms of JSON, as `Scores.with_evidence` keeps it and the report shows it."""
        name = next(iter(self.rows))
        return {
            "metric": self.metric,
            "unit": self.unit,
            "rows": [row.row(name) for name, row in self.rows.items()],
            "against": [
                row.row(f"{name} less {other}") | {"better": self.better(other)} for other, row in self.against.items()
            ],
            "per_query": {name: values.tolist() for name, values in self.per_query.items()},
            "text": self.text,
            **self.facts,
        }


def compare(
    metric: str,
    unit: str,
    contributions: Mapping[str, Float[np.ndarray, "q m"]],
    per_query: Mapping[str, Float[np.ndarray, " q"]],
    facts: Mapping[str, Any] | None = None,
    seed: int = 0,
    higher: bool = True,
) -> Comparison:
    """From each method's contributions by query and subset; a single column has queries only."""

    def estimate(values: Float[np.ndarray, "q m"], mean: float) -> Interval:
        return one_way(values[:, 0], seed) if values.shape[1] == 1 else two_way(values, mean, seed)

    first = next(iter(contributions))
    rows = {name: estimate(values, float(per_query[name].mean())) for name, values in contributions.items()}
    against = {
        name: estimate(contributions[first] - values, rows[first].mean - rows[name].mean)
        for name, values in contributions.items()
        if name != first
    }
    return Comparison(metric, unit, rows, against, per_query, facts or {}, higher)


def by_method(results: Scores | Sequence[Scores] | Mapping[str, Scores]) -> dict[str, Scores]:
    """Results by name: their method's, numbered where one occurs again. Raises MethodError for none."""
    return _named([results] if isinstance(results, Scores) else results)


def named_values(results: Values | Sequence[Values] | Mapping[str, Values]) -> dict[str, Values]:
    """The same for values."""
    return _named([results] if isinstance(results, Values) else results)


def _named(results: Sequence[Kind] | Mapping[str, Kind]) -> dict[str, Kind]:
    named: dict[str, Kind] = {}
    if isinstance(results, Mapping):
        named |= results
    else:
        for result in results:
            name, count = result.method, 2
            while name in named:
                name, count = f"{result.method} {count}", count + 1
            named[name] = result
    if not named:
        raise MethodError("No results were given; give at least one.")
    return named


def _percent(share: float) -> str:
    return ">99.9%" if share > 0.999 else f"{share:.1%}" if share > 0.99 else f"{share:.0%}"
