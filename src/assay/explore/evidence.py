"""What speaks for or against a run, as its evidence holds it: sets of examples, each with a mean and an interval.

    {"rows": [{"set": "graddot top 10", "mean": -0.12, "low": -0.15, "high": -0.09, "n": 40}, ...],
     "unit": "nats of query loss", "text": "what was done", "k": 10, ...}

`low`, `high` and `n` may be missing. The first row is the method itself, the others its baselines.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from markupsafe import Markup

from assay.errors import InputError
from assay.explore.format import number, unsigned
from assay.explore.plots import Interval, intervals

TITLES = {"one_step": "One-step check", "agreement": "Agreement with the queries' sources"}
MEANINGS = {
    "one_step": "Take one small gradient step on a set of examples and see how the queries' loss moves. "
    "Below zero the loss fell: the set helped. The method should lie further below zero than its baselines.",
    "agreement": "The share of each query's most helpful examples that come from the query's own source. "
    "Higher is better; a source is only a stand-in for what really taught the model.",
}
UNITS = {"one_step": "nats of query loss", "agreement": "share"}
FACTS = ("rows", "unit", "text")


@dataclass(frozen=True)
class Row:
    """One set of examples, its numbers as text."""

    name: str
    mean: str
    interval: str | None
    n: int | None


@dataclass(frozen=True)
class Evidence:
    """One check: what it means, its rows as a table and as a plot, and how it was done."""

    title: str
    meaning: str
    text: str
    unit: str
    facts: Mapping[str, Any]
    rows: Sequence[Row]
    plot: Markup


def read_evidence(found: Mapping[str, Any]) -> list[Evidence]:
    """The checks that the report knows, in a fixed order.

    Raises InputError for one that does not look as above.
    """
    return [_read(name, found[name]) for name in TITLES if name in found]


def _read(name: str, content: Any) -> Evidence:
    written = number if name == "one_step" else unsigned
    try:
        known = [row for row in content["rows"] if row["mean"] is not None]
        drawn = [
            Interval(str(row["set"]), float(row["mean"]), _optional(row, "low"), _optional(row, "high"), first=j == 0)
            for j, row in enumerate(known)
        ]
        counts = [row.get("n") for row in known]
        scalars = {key: value for key, value in content.items() if isinstance(value, str | int | float)}
        facts = {
            key: unsigned(value) if isinstance(value, float) else value
            for key, value in scalars.items()
            if key not in FACTS
        }
        unit, text = str(content.get("unit", UNITS[name])), str(content.get("text", ""))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f'The run\'s evidence "{name}" is not in the expected form ({type(error).__name__}: {error}); expected '
            '{"rows": [{"set": ..., "mean": ..., "low": ..., "high": ..., "n": ...}]}. Run the check again.'
        ) from error
    rows = [Row(row.label, written(row.mean), _between(row, written), n) for row, n in zip(drawn, counts, strict=True)]
    told = "; ".join(f"{row.name}: {row.mean}" for row in rows)
    plot = intervals(drawn, f"evidence-{name}", unit, f"{TITLES[name]}, in {unit}. {told}.") if rows else Markup("")
    return Evidence(TITLES[name], MEANINGS[name], text, unit, facts, rows, plot)


def _between(row: Interval, written: Callable[[float], str]) -> str | None:
    return None if row.low is None or row.high is None else f"{written(row.low)} to {written(row.high)}"


def _optional(row: Mapping[str, Any], key: str) -> float | None:
    found = cast(Any, row.get(key))
    return None if found is None else float(found)
