"""What the page says of one query: its text and loss, what helped and harmed, how its scores are distributed."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int64
from markupsafe import Markup

from assay.explore import format
from assay.explore.grain import PAIRS, Pair, pairs_of
from assay.explore.null import Null
from assay.explore.plots import distribution
from assay.explore.sources import Grouping, SourceTable
from assay.explore.text import Clipped, Vocabulary, clipped, plain, terms
from assay.ranking import best
from assay.scores import Scores
from assay.tables import Table

OPENING = 90  # characters of a query in the list of queries


@dataclass(frozen=True)
class Shown:
    """An example at its place in a ranking; `bar` is its score in percent of the largest shown."""

    rank: int
    id: str
    source: str | None
    score: str
    error: str | None
    bar: float
    text: Clipped
    near: Sequence[tuple[str, str]] = ()
    """The examples most like it: id and the start of the text."""


@dataclass(frozen=True)
class Side:
    """One end of a ranking; `css` names its colour, `empty` is said if there is no example."""

    title: str
    css: str
    empty: str
    examples: Sequence[Shown]


@dataclass(frozen=True)
class Spread:
    """How scores are distributed: a plot, if there is more than one value, and what there is to see in words."""

    plot: Markup | None
    text: str


@dataclass(frozen=True)
class Query:
    """One query with what helped and what harmed; `anchor` is its place on the page."""

    anchor: str
    id: str
    source: str | None
    loss: str | None
    text: Clipped
    opening: str
    best: str | None
    sides: Sequence[Side]
    remarks: Sequence[str]
    spread: Spread
    sources: SourceTable | None
    pairs: Sequence[Pair]
    reliability: str | None


@dataclass(frozen=True)
class QueryViews:
    """Views of the queries of `scores`, with the `top` examples of both ends and `limit` characters of each text."""

    scores: Scores
    top: int
    limit: int

    def query(self, column: int) -> Query:
        """All there is to say of one query."""
        queries, train, text = self.scores.queries, self.scores.train, self.scores.queries.texts[column]
        ends = [self._end(column, sign) for sign in (+1, -1)]
        largest = max((abs(score) for _, scores in ends for score in scores), default=0.0)
        words = frozenset(term.word for term in terms(text))
        sides = [
            Side(
                title,
                title.lower(),
                f"No training example has a score {where} zero for this query.",
                [
                    shown_example(train, line, rank, score, largest, self.limit, words, self._vocabulary)
                    for rank, (line, score) in enumerate(zip(lines, scores, strict=True), start=1)
                ],
            )
            for title, where, (lines, scores) in zip(("Helpful", "Harmful"), ("above", "below"), ends, strict=True)
        ]
        helpful, scores = ends[0]
        return Query(
            anchor=f"query-{column + 1}",
            id=queries.ids[column],
            source=queries.sources[column],
            loss=self._loss(column),
            text=clipped(text, self.limit),
            opening=_opening(text),
            best=format.number(scores[0]) if scores else None,
            sides=sides,
            remarks=list(self._remarks(column, helpful)),
            spread=self._spread(column),
            sources=self._sources(column),
            pairs=pairs_of(self.scores, column, max(1, PAIRS // max(1, len(self.scores.queries)))),
            reliability=verdict_of(self.scores, queries.ids[column]),
        )

    def all_sources(self) -> SourceTable | None:
        """Totals over all queries, and places among the top of any of them."""
        scores = self.scores
        numbers = scores.array.sum(axis=1, dtype=np.float64) if scores.is_dense else None
        return self._grouping.table(numbers, _rows(self._places[0]), _rows(self._places[1]))

    def _sources(self, column: int) -> SourceTable | None:
        if not self.scores.is_dense:
            return None
        numbers = self.scores.array[:, column].astype(np.float64)
        helpful, harmful = (_rows([side[column]]) for side in self._places)
        return self._grouping.table(numbers, helpful, harmful, first=6, last=3)

    @cached_property
    def _grouping(self) -> Grouping:
        return Grouping.of(self.scores.train.sources, self.scores.train.whole)

    @cached_property
    def _places(self) -> tuple[list[list[int]], list[list[int]]]:
        """Helpful and harmful examples among the top, as lines of the table, per query; also of queries not shown."""
        columns = range(len(self.scores.queries))
        helpful, harmful = ([self._end(column, sign)[0] for column in columns] for sign in (+1, -1))
        return helpful, harmful

    @cached_property
    def _often(self) -> Counter[int]:
        """For how many queries each line is among the most helpful."""
        return Counter(line for lines in self._places[0] for line in lines)

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary.of(self.scores.train.texts, self.scores.train.whole)

    def _end(self, column: int, sign: int) -> tuple[list[int], list[float]]:
        """Lines of the table and scores of the top of one end, best first."""
        entries = self.scores.entries
        if isinstance(entries, np.ndarray):
            rows = best(entries[:, column], self.top, sign)
            scores = entries[rows, column]
        else:
            rows, scores = entries.side(column, sign, self.top)
        return self.scores.train.lines(rows).tolist(), scores.tolist()

    def _loss(self, column: int) -> str | None:
        losses = self.scores.queries.columns.get("loss")
        loss = None if losses is None else losses[column]
        return None if loss is None else f"{float(loss):.3f}"

    def _remarks(self, column: int, helpful: Sequence[int]) -> Iterator[str]:
        """What puts the ranking into proportion."""
        train, own, count = self.scores.train, self.scores.queries.sources[column], len(helpful)
        among = format.counted(count, "most helpful example")
        if own is not None and count and own in self._grouping.names:
            same = sum(train.sources[line] == own for line in helpful)
            chance = format.decimal(self._grouping.share(own) * count)
            by_size = f" (by its size alone: {chance})" if train.whole else ""
            yield f"Of the {among}, {same} {_is(same)} from the query's own source{by_size}."
        others = len(self.scores.queries) - 1
        if others >= 2 and count:
            common = sum(2 * (self._often[line] - 1) >= others for line in helpful)
            yield f"Of the {among}, {common} {_is(common)} also among those of at least half of the other queries" + (
                ": they say little about this query in particular." if 2 * common >= count else "."
            )

    def _spread(self, column: int) -> Spread:
        if self.scores.is_dense:
            query_id = self.scores.queries.ids[column]
            return spread_of(self.scores.array[:, column], f"scores-{column + 1}", "score", query_id)
        return Spread(
            None,
            "This run kept only the most helpful and most harmful examples of each query, so there is no "
            "distribution to compare them with.",
        )


def shown_example(
    table: Table,
    line: int,
    rank: int,
    score: float,
    largest: float,
    limit: int,
    words: frozenset[str] = frozenset(),
    vocabulary: Vocabulary | None = None,
    error: float | None = None,
) -> Shown:
    """One line of a table at its place in a ranking whose largest score, of either sign, is `largest`."""
    return Shown(
        rank=rank,
        id=table.ids[line],
        source=table.sources[line],
        score=format.number(score),
        error=None if error is None else format.number(error).lstrip("+"),
        bar=100 * abs(score) / (largest or 1.0),
        text=clipped(table.texts[line], limit, words, vocabulary),
    )


def spread_of(scores: Float[np.ndarray, " n"], name: str, noun: str, query_id: str | None) -> Spread:
    """The distribution of one query's scores, or of values, against the random null."""
    null, count = Null.of(scores), len(scores)
    if count == 0 or scores.min() == scores.max():
        return Spread(None, f"All {noun}s are equal, so there is no distribution to show.")
    zeros = int((scores == 0).sum())
    ends = " to ".join(format.number(float(end)) for end in (scores.min(), scores.max()))
    told = f"{format.counted(count, noun)} from {ends}"
    if zeros:
        told += f", {zeros:,} of them zero"
    if null is None:
        told += f". Half of the {noun}s or more are the same number, so there is no random null of the same spread."
    else:
        low, high = format.number(null.low), format.number(null.high)
        told += (
            f". As many random {noun}s of the same middle and spread would all lie between {low} and {high}, with 95% "
            f"chance; of the real ones {null.above:,} {_is(null.above)} above and {null.below:,} below."
        )
    where = "" if query_id is None else f" of query {query_id}"
    return Spread(distribution(scores, null, name, noun, f"Distribution of the {noun}s{where}: {told}"), told)


def _rows(lines: Iterable[Sequence[int]]) -> Int64[np.ndarray, " places"]:
    return np.array([line for some in lines for line in some], dtype=np.int64)


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _opening(text: str) -> str:
    first = " ".join(text[: 4 * OPENING].split())
    return plain(first if len(first) <= OPENING and len(text) <= 4 * OPENING else first[: OPENING - 1] + "…")


def verdict_of(scores: Scores, query_id: str) -> str | None:
    """`stable (70% of the top stays at least)`, as the run's evidence of reliability has it; None where it was not measured."""
    found = scores.evidence.get("reliability", {}).get("queries", [])
    for entry in found:
        if entry["query_id"] == query_id:
            shares = [entry[kind] for kind in ("seed", "data", "damping") if kind in entry]
            return (
                f"{entry['verdict']} ({format.percent(min(shares))} of its top stays)" if shares else entry["verdict"]
            )
    return None
