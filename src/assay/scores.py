"""Scores: training examples by queries, dense or the best at both ends; higher = more helpful."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import pandas as pd
import safetensors
import safetensors.numpy as safetensors_numpy
from jaxtyping import Float, Float32, Int64

from assay.errors import InputError
from assay.examples import Examples
from assay.grain import FILE as PARTS
from assay.grain import Parts
from assay.provenance import Provenance
from assay.ranking import NONE, TopK, best, check_finite, check_k
from assay.results import Result, read_columns, read_table, write_columns, write_table
from assay.run_directory import Run, Writer, corrupt
from assay.tables import Table

SIDES = {+1: "helpful", -1: "harmful"}
KEPT_WHOLE = 100_000  # above so many training rows, a top-k result keeps only the rows that appear in it
storage = cast(Any, safetensors_numpy)  # its types are incomplete


@dataclass(frozen=True, eq=False, kw_only=True)
class Scores(Result):
    """`entries[i, q] > 0`: training on example i lowered the loss of query q (raised the measurement).

    `entries` is the dense matrix, float32 [n_train, n_query], rows and columns in the order of `train` and
    `queries`, or a `TopK`. `provenance.unit` says what a score of 1 means. A top-k result over more than
    100,000 training examples knows ids and texts of those that appear in it; `train.rows` are their
    positions, `train.total` how many there were. `parts`: the scores of some pairs by token, module and so on.
    """

    kind: ClassVar[str] = "scores"

    queries: Table
    entries: Float32[np.ndarray, "n_train n_query"] | TopK
    parts: Parts | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.entries, TopK):
            self.train.lines(self.entries.rows())
            given = (self.train.total, len(self.entries.helpful_rows))
        else:
            given = self.entries.shape
            check_finite(self.entries)
        if given != (self.train.total, len(self.queries)):
            raise InputError(
                f"Scores of shape {given} were given for {self.train.total} training examples and "
                f"{len(self.queries)} queries; expected a row per example and a column per query."
            )

    @classmethod
    def of(
        cls,
        entries: Float[np.ndarray, "n_train n_query"] | TopK,
        train: Examples | Table,
        queries: Examples | Table,
        provenance: Provenance,
    ) -> Self:
        """From a dense matrix or a `TopK`, and the examples themselves or tables of them."""
        if isinstance(train, Examples):
            rows = entries.rows() if isinstance(entries, TopK) and len(train) > KEPT_WHOLE else None
            train = Table.of(train) if rows is None else Table.some(train, rows)
        if isinstance(queries, Examples):
            queries = Table.of(queries)
        if not isinstance(entries, TopK):
            entries = np.ascontiguousarray(entries, dtype=np.float32)
        return cls(entries=entries, train=train, queries=queries, provenance=provenance)

    @property
    def is_dense(self) -> bool:
        """Whether there is a score for every pair, so that `array` can be read."""
        return not isinstance(self.entries, TopK)

    @property
    def array(self) -> Float32[np.ndarray, "n_train n_query"]:
        """The dense matrix; a top-k result has none and raises InputError."""
        if isinstance(self.entries, TopK):
            raise InputError(
                f"This result holds only the {self.entries.k} most helpful and most harmful examples of each "
                "query, so it has no dense array. Attribute again with top=None to get every score."
            )
        return self.entries

    @property
    def train_ids(self) -> Sequence[str]:
        """Ids of the training examples, in the order of `train` (see there for large top-k results)."""
        return self.train.ids

    @property
    def query_ids(self) -> Sequence[str]:
        """Ids of the queries, in their order."""
        return self.queries.ids

    def top(self, k: int = 10) -> pd.DataFrame:
        """At most k helpful (score > 0, highest first) and k harmful (score < 0, lowest first) rows a query.

        Columns query_id, rank (from 1 on each side), train_id, score, side, source, text. Equal scores come
        in the order of the training data. A top-k result gives at most the number that it holds.
        """
        check_k(k)
        columns = self._ranked(k)
        lines = columns.pop("line")
        names = ("query_id", "rank", "train_id", "score", "side")
        return pd.DataFrame(
            {
                **{name: columns[name] for name in names},
                "source": _texts([self.train.sources[line] for line in lines]),
                "text": _texts([self.train.texts[line] for line in lines]),
            }
        )

    def pairs(self, k: int = 10) -> list[tuple[int, int]]:
        """(row, column) of the at most k most helpful and k most harmful examples of every query, query by query."""
        check_k(k)
        ends = [(query, sign) for query in range(len(self.queries)) for sign in SIDES]
        return [(row, query) for query, sign in ends for row in self._side(query, sign, k)[0].tolist()]

    def with_parts(self, parts: Parts) -> Self:
        """The same scores, some of them taken apart."""
        return replace(self, parts=parts)

    def by_source(self) -> pd.DataFrame:
        """Columns query_id, source, score (the sum), mean, count: one line per query and source.

        Sources come in the order of their first example; examples without a source are one group, whose
        source is None. A top-k result, which lacks most scores, raises InputError.
        """
        array, names = self.array, list(dict.fromkeys(self.train.sources))
        group = {name: j for j, name in enumerate(names)}
        member = np.array([group[source] for source in self.train.sources], dtype=np.intp)
        count = np.bincount(member, minlength=len(names))
        sums = [np.bincount(member, column, minlength=len(names)) for column in array.T]  # in float64
        total = np.array(sums).reshape(len(self.queries), len(names))
        return pd.DataFrame(
            {
                "query_id": _texts([query_id for query_id in self.query_ids for _ in names]),
                "source": _texts(names * len(self.queries)),
                "score": total.ravel(),
                "mean": (total / count).ravel(),
                "count": np.tile(count, len(self.queries)),
            }
        )

    def to_frame(self) -> pd.DataFrame:
        """Columns query_id, train_id, score, rank, side: every pair of a dense result, else what is held.

        Zero scores are on no side: their rank and side are missing, and they come last.
        """
        columns = self._ranked(None)
        del columns["line"]
        frame = pd.DataFrame(columns)
        return pd.concat([frame, self._zeros()], ignore_index=True) if self.is_dense else frame

    def _ranked(self, k: int | None) -> dict[str, Any]:
        """Per query its helpful, then its harmful rows, in the columns of `to_frame`; and their lines."""
        ends = [(query, sign) for query in range(len(self.queries)) for sign in SIDES]
        found = [self._side(query, sign, k) for query, sign in ends]
        rows = np.concatenate([np.empty(0, np.int64), *(rows for rows, _ in found)])
        lengths = [len(rows) for rows, _ in found]
        lines: list[int] = self.train.lines(rows).tolist()
        named = [(self.query_ids[query], SIDES[sign]) for query, sign in ends]
        each = [pair for pair, length in zip(named, lengths, strict=True) for _ in range(length)]
        return {
            "query_id": _texts([query_id for query_id, _ in each]),
            "train_id": _texts([self.train.ids[line] for line in lines]),
            "score": np.concatenate([np.empty(0, np.float32), *(scores for _, scores in found)]),
            "rank": pd.array([rank + 1 for length in lengths for rank in range(length)], dtype="Int64"),
            "side": _texts([side for _, side in each]),
            "line": lines,
        }

    def _side(self, query: int, sign: int, k: int | None) -> tuple[Int64[np.ndarray, " m"], Float32[np.ndarray, " m"]]:
        if isinstance(self.entries, TopK):
            return self.entries.side(query, sign, k)
        column = self.entries[:, query]
        rows = best(column, k, sign)
        return rows, column[rows]

    def _zeros(self) -> pd.DataFrame:
        rows, columns = np.nonzero(self.array == 0)
        return pd.DataFrame(
            {
                "query_id": _texts([self.query_ids[column] for column in columns.tolist()]),
                "train_id": _texts([self.train_ids[row] for row in rows.tolist()]),
                "score": np.zeros(len(rows), np.float32),
                "rank": pd.array([None] * len(rows), dtype="Int64"),
                "side": _texts([None] * len(rows)),
            }
        )

    def _manifest(self) -> dict[str, Any]:
        shape: dict[str, Any] = {"layout": "dense", "n_query": len(self.queries)}
        if isinstance(self.entries, TopK):
            shape = {"layout": "top-k", "k": self.entries.k, "n_query": len(self.queries)}
        return {**super()._manifest(), **shape}

    def _writers(self) -> dict[str, Writer]:
        tables: dict[str, Writer] = {
            "train.parquet": partial(write_table, self.train),
            "queries.parquet": partial(write_table, self.queries),
        }
        if self.parts is not None:
            tables[PARTS] = self.parts.write
        if isinstance(self.entries, TopK):
            columns = self._ranked(None)
            del columns["line"]
            return {"scores.parquet": partial(write_columns, columns), **tables}
        return {"scores.safetensors": partial(_write_dense, self.entries), **tables}

    @classmethod
    def from_run(cls, run: Run) -> Self:
        """Read the files of an opened run of scores."""
        train = read_table(run, "train.parquet", run.count("n_train"))
        queries = read_table(run, "queries.parquet", run.count("n_query"))
        dense = run.manifest.get("layout") == "dense"
        return cls(
            entries=_read_dense(run) if dense else _read_top(run, train, queries),
            train=train,
            queries=queries,
            provenance=run.provenance(),
            evidence=run.evidence(),
            parts=Parts.read(run) if PARTS in run.manifest.get("files", {}) else None,
        )


def _texts(values: Sequence[Any]) -> Any:
    """A column of texts in which None stays None."""
    return pd.Series(list(values), dtype=object)


def _write_dense(array: Float32[np.ndarray, "n_train n_query"], path: Path) -> None:
    try:
        # safetensors writes the memory as it lies, so it must be in C order
        storage.save_file({"scores": np.ascontiguousarray(array)}, path)
    except safetensors.SafetensorError as error:
        raise OSError(str(error)) from error


def _read_dense(run: Run) -> Float32[np.ndarray, "n_train n_query"]:
    path = run.path("scores.safetensors")
    try:
        array: np.ndarray = storage.load_file(path)["scores"]
    except (safetensors.SafetensorError, KeyError) as error:
        raise corrupt(path, str(error)) from error
    if array.shape != (run.count("n_train"), run.count("n_query")) or array.dtype != np.float32:
        raise corrupt(path, f"it holds {array.dtype} {array.shape}, not what run.json describes")
    return array


def _read_top(run: Run, train: Table, queries: Table) -> TopK:
    columns = {name: column.to_pylist() for name, column in read_columns(run, "scores.parquet").items()}
    shape = (len(queries), run.count("k"))
    ends = {side: (np.full(shape, NONE, np.int64), np.zeros(shape, np.float32)) for side in SIDES.values()}
    try:
        names = ("query_id", "train_id", "score", "rank", "side")
        for query_id, train_id, score, rank, side in zip(*(columns[name] for name in names), strict=True):
            rows, scores = ends[side]
            query = queries.row_of(query_id)
            rows[query, rank - 1], scores[query, rank - 1] = train.row_of(train_id), score
    except (KeyError, IndexError, TypeError, InputError) as error:
        raise corrupt(run.directory / "scores.parquet", str(error)) from error
    return TopK(*ends["helpful"], *ends["harmful"])
