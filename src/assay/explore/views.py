"""What the page says, in the order in which it says it; the template only lays it out.

Texts arrive here as they are in the run and leave as markup (escaped) or as plain strings, which the template
escapes.
"""

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from assay.errors import InputError
from assay.explore import format
from assay.explore.evidence import Evidence, read_evidence
from assay.explore.queries import Query, QueryViews, Shown, Side, Spread, shown_example, spread_of
from assay.explore.sources import Grouping, SourceTable
from assay.explore.text import HEAD
from assay.explore.valued import Valued, valued
from assay.methods import METHODS
from assay.provenance import Provenance
from assay.ranking import TopK
from assay.scores import Scores
from assay.values import Values

WHOLE = 4_000  # characters shown of a text, less where a page shows very many
PAGE = 8_000_000  # characters of examples on a page, about
QUERIES, PLACES = 100, 20_000  # at most so many queries, and so many examples, on a page
UNITS = {
    "arbitrary": "only the order of the scores and their ratios mean something, within one method and run",
    "nats per removed example": "how many nats the query's loss would rise, by estimate, if this one example had "
    "not been trained on",
}


@dataclass(frozen=True)
class Fact:
    """A line of the facts about the run; `warn` marks what a reader must not overlook."""

    name: str
    value: str
    meaning: str = ""
    warn: bool = False


@dataclass(frozen=True)
class Page:
    """The whole page."""

    title: str
    question: str
    method: str
    summary: str
    parameters: Mapping[str, Any]
    unit: str
    unit_meaning: str
    sign: str
    is_scores: bool
    has_parts: bool
    helped: str
    harmed: str
    facts: Sequence[Fact]
    notes: Sequence[str]
    versions: Mapping[str, str]
    fingerprints: Mapping[str, str]
    command: str | None
    evidence: Sequence[Evidence]
    sources: SourceTable | None
    queries: Sequence[Query]
    left_out: int
    top: int
    sides: Sequence[Side]
    spread: Spread | None
    valued: Valued | None


def scores_page(scores: Scores, top: int) -> Page:
    """The page of `Scores`."""
    count = min(len(scores.queries), QUERIES, max(1, PLACES // (2 * top)))
    views = QueryViews(scores, top, _text_limit(2 * top * max(1, count)))
    examples, queries = format.counted(scores.train.total, "training example"), len(scores.queries)
    what = "this query" if queries == 1 else f"these {format.counted(queries, 'query')}"
    return Page(
        title=f"{scores.method}: {format.counted(queries, 'query')}, {examples}",
        question=f"Which of {examples} helped or harmed on {what}?",
        sources=views.all_sources(),
        queries=[views.query(column) for column in range(count)],
        left_out=queries - count,
        sides=(),
        spread=None,
        valued=None,
        **_common(scores, top),
    )


def values_page(values: Values, top: int) -> Page:
    """The page of `Values`."""
    order = np.argsort(-values.array, kind="stable"), np.argsort(values.array, kind="stable")
    most, least = (rows[:top] for rows in order)
    largest = float(np.abs(values.array[np.concatenate([most, least])]).max(initial=0.0))
    limit, near = _text_limit(2 * top), _neighbours(values)

    def shown(rank: int, line: int) -> Shown:
        value, error = float(values.array[line]), None if values.stderr is None else float(values.stderr[line])
        shown = shown_example(values.train, line, rank, value, largest, limit, error=error)
        return replace(shown, near=near.get(values.ids[line], ()))

    sides = [
        Side(
            title, css, "There is no example.", [shown(rank, line) for rank, line in enumerate(rows.tolist(), start=1)]
        )
        for title, css, rows in (("Most valuable", "helpful", most), ("Least valuable", "harmful", least))
    ]
    count = format.counted(len(values.train), "training example")
    return Page(
        title=f"{values.method}: the value of {count}",
        question=f"What is each of {count} worth?",
        sources=Grouping.of(values.sources, whole=True).table(values.array, most, least),
        queries=(),
        left_out=0,
        sides=sides,
        spread=spread_of(values.array, "values", "value", None),
        valued=valued(values),
        **_common(values, top),
    )


def _neighbours(values: Values) -> dict[str, list[tuple[str, str]]]:
    """By example, the id and text of those nearest to it. Raises InputError for evidence in another form."""
    try:
        found = cast(list[Any], values.evidence.get("neighbours") or [])
        return {str(one["id"]): [(str(n["id"]), str(n["text"])) for n in one["near"]] for one in found}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f'The run\'s evidence "neighbours" is not in the expected form ({error}); value again.'
        ) from error


def _text_limit(places: int) -> int:
    return min(WHOLE, max(HEAD, PAGE // places))


# The run ------------------------------------------------------------------------------------------------------------


def _common(result: Scores | Values, top: int) -> dict[str, Any]:
    made = result.provenance
    told = _measured(made)
    return {
        "method": made.method,
        "summary": next((method.summary for method in METHODS if method.name == made.method), ""),
        "parameters": made.parameters,
        "unit": made.unit,
        "unit_meaning": UNITS.get(made.unit, ""),
        "sign": made.sign,
        "is_scores": isinstance(result, Scores),
        "has_parts": isinstance(result, Scores) and result.parts is not None,
        "helped": f"raised {told}" if told else "lowered the query's loss",
        "harmed": "lowered it" if told else "raised that loss",
        "facts": list(_facts(result)),
        "notes": made.notes,
        "versions": made.versions,
        "fingerprints": {
            name: value
            for name in ("model", "train", "query")
            if (value := getattr(made, f"{name}_fingerprint")) is not None
        },
        "command": _command(result),
        "evidence": read_evidence(result.evidence),
        "top": top,
    }


def _measured(made: Provenance) -> str:
    """What was measured of the queries, if it was not their loss."""
    measure = str(made.parameters.get("measure", "loss"))
    return "" if measure == "loss" else f"the measurement ({measure})"


def _facts(result: Scores | Values) -> Iterator[Fact]:
    made = result.provenance
    counts = {"train": format.counted(result.train.total, "example")}
    if isinstance(result, Scores):
        counts["queries"] = format.counted(len(result.queries), "query")
    for name, value in made.inputs.items():
        yield Fact(name, value, counts.pop(name, ""))
    for name, value in counts.items():
        yield Fact(name, value)
    if isinstance(result, Scores):
        if isinstance(result.entries, TopK):
            yield Fact("scores kept", f"best {result.entries.k:,}", "at both ends of each query")
        else:
            yield Fact("scores kept", "all")
    yield _coverage(made)
    yield Fact("time", format.seconds(made.seconds) if made.seconds > 0 else "not recorded")
    yield Fact("peak memory", format.size(made.peak_memory) if made.peak_memory > 0 else "not recorded")


def _coverage(made: Provenance) -> Fact:
    if made.coverage is None:
        return Fact("coverage", "none needed", "the method uses no parameters of a model")
    warn = made.coverage < 0.99
    meaning = "of the model's trainable parameters took part"
    return Fact("coverage", format.percent(made.coverage), meaning, warn)


def _command(result: Scores | Values) -> str | None:
    """The command line that makes this run again; None if it was made in Python of data in memory."""
    made, inputs = result.provenance, result.provenance.inputs
    is_scores = isinstance(result, Scores)
    files = [inputs[name] for name in ("train", "queries") if name in inputs]
    if len(files) < 1 + is_scores or not all("." in name or "/" in name for name in files):
        return None  # the inputs are named after Python types, such as "list"
    words = ["assay", "attribute" if is_scores else "value", inputs.get("model", "MODEL"), "--train", files[0]]
    words += ["--queries" if is_scores else "--on", files[1]] if len(files) > 1 else []
    words += ["--method", made.method]
    for name, value in made.parameters.items():
        words += _option(name.replace("_", "-"), value)
    if isinstance(result, Scores) and isinstance(result.entries, TopK):
        words += ["--top", str(result.entries.k)]
    if isinstance(result, Scores) and result.parts is not None:
        words += ["--tokens", str(_pairs_a_side(result))]
    return shlex.join([*words, "--out", "RUN"])


def _pairs_a_side(scores: Scores) -> int:
    """How many pairs of each end of a query were taken apart."""
    parts = scores.parts
    ends = [(fold.query_id, fold.total > 0) for fold in parts or () if parts is not None and fold.by == parts.by[0]]
    return max(Counter(ends).values(), default=1)


def _option(name: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", str(value)]
