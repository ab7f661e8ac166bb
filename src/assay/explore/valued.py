"""What a page of values shows besides the ranking: values by source, their intervals, curves of retraining."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from assay.errors import InputError
from assay.explore import format
from assay.explore.null import Null
from assay.explore.plots import LABEL, Line, curves, groups, ranked
from assay.explore.queries import Spread
from assay.values import Values

SOURCES = 12  # histograms at most
NORMAL = 1.96  # standard errors to each side of a 95% interval
WAYS = {
    "removal": (
        "Removal",
        "examples removed",
        "Without the highest the loss should rise more than without random ones.",
    ),
    "addition": ("Addition", "examples kept", "With only the highest the loss should be lower than with random ones."),
}
ORDERS = {"highest": "highest first", "lowest": "lowest first", "random": "random"}


@dataclass(frozen=True)
class CurveView:
    """A plot of three curves, and the same as a table: for each number of examples the loss of each curve."""

    title: str
    meaning: str
    across: str
    plot: Markup
    names: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True)
class Valued:
    """The figures of a page of values; None and empty where there is nothing to show."""

    sources: Spread | None
    intervals: Spread | None
    curves: Sequence[CurveView]


def valued(values: Values) -> Valued:
    """Of a result. Raises InputError for evidence in another form."""
    return Valued(by_source(values), with_intervals(values), read_curves(values.evidence))


def by_source(values: Values) -> Spread | None:
    """A histogram for each of the largest sources, those of highest mean first; None if there are not two sources."""
    members: dict[str | None, list[int]] = {}
    for row, source in enumerate(values.sources):
        members.setdefault(source, []).append(row)
    if len(members) < 2 or values.array.min() == values.array.max():
        return None
    largest = sorted(members.items(), key=lambda member: -len(member[1]))[:SOURCES]
    parts = [("no source" if source is None else _cut(source), values.array[rows]) for source, rows in largest]
    parts.sort(key=lambda part: -float(part[1].mean()))
    drawn = [(f"{source} ({len(part):,})", part) for source, part in parts]
    told = "; ".join(
        f"{name}: median {format.number(float(np.median(part)))}, {format.percent(float((part < 0).mean()))} below zero"
        for name, part in drawn
    )
    text = f"Values by source (number of examples), highest mean first. {told}."
    if len(members) > SOURCES:
        text += f" {len(members) - SOURCES:,} smaller sources are left out."
    return Spread(groups(drawn, Null.of(values.array), "values-sources", "value", text), text)


def _cut(name: str) -> str:
    return name if len(name) <= LABEL else name[: LABEL - 1] + "…"


def with_intervals(values: Values) -> Spread | None:
    """All values in order with 95% intervals, and how many are decided; None without standard errors."""
    if values.stderr is None or not len(values.array):
        return None
    if not np.isfinite(values.stderr).all():
        return Spread(None, "Some standard errors are not known: there were too few samples.")
    reach = NORMAL * values.stderr
    above, below = int((values.array > reach).sum()), int((values.array < -reach).sum())
    text = (
        f"{format.counted(len(values.array), 'value')} with intervals of {NORMAL} standard errors to each side (95%): "
        f"{above:,} above zero, {below:,} below, {len(reach) - above - below:,} not told from zero."
    )
    return Spread(ranked(values.array, reach, "values-intervals", "value", text), text)


def read_curves(evidence: Mapping[str, Any]) -> list[CurveView]:
    """The curves that `assay.evaluate.curves` found, if they are there. Raises InputError for another form."""
    if "curves" not in evidence:
        return []
    try:
        content = evidence["curves"]
        counts, full = [int(count) for count in content["counts"]], float(content["full"])
        found = {
            way: {order: np.array(content["lines"][way][order], dtype=np.float64) for order in ORDERS} for way in WAYS
        }
        if any(lines.ndim != 2 or lines.shape[1] != len(counts) for way in found.values() for lines in way.values()):
            raise ValueError("a line has not one number for each count")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f'The run\'s evidence "curves" is not in the expected form ({type(error).__name__}: {error}); make the '
            "curves again."
        ) from error
    return [_view(way, counts, full, lines) for way, lines in found.items()]


def _view(way: str, counts: Sequence[int], full: float, found: Mapping[str, np.ndarray]) -> CurveView:
    title, across, meaning = WAYS[way]
    xs = [0, *counts] if way == "removal" else list(counts)

    def whole(numbers: np.ndarray) -> list[float]:
        """From all examples on, where nothing is removed yet."""
        return [full, *numbers.tolist()] if way == "removal" else numbers.tolist()

    lines = [
        Line(
            ORDERS[order], xs, whole(some.mean(0)), *((whole(some.min(0)), whole(some.max(0))) if len(some) > 1 else ())
        )
        for order, some in found.items()
    ]
    rows = [(f"{x:,}", [format.unsigned(line.y[k]) for line in lines]) for k, x in enumerate(xs)]
    told = "; ".join(f"{line.label}: {format.unsigned(line.y[0])} to {format.unsigned(line.y[-1])}" for line in lines)
    description = f"{title} curves: mean loss against {across}. {told}. With all examples: {format.unsigned(full)}."
    plot = curves(lines, f"curves-{way}", across, "mean loss", description)
    return CurveView(title, meaning, across, plot, [line.label for line in lines], rows)
