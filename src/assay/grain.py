"""Parts of scores: which tokens, sentences, modules and layers carry the score of a pair; each fold sums to the score."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64

from assay.errors import InputError
from assay.results import read_columns, write_columns
from assay.run_directory import Run, corrupt

By = str
"""One of `BY`."""
BY: tuple[By, ...] = ("loss-token", "position", "query-token", "sentence", "module", "layer")
FILE = "parts.parquet"
NOWHERE = -1
"""Start and end of a part that is no piece of a text."""
ELSEWHERE = "(elsewhere)"
"""Name of the part of a score that no position holds."""


@dataclass(frozen=True, eq=False)
class Fold:
    """The score of one pair of training example and query, taken apart in one way.

    `names[j]` is the j-th part (a token's piece of text, a sentence, a module), `scores[j]` its share, float64, in the unit of
    the scores; `starts` and `ends` are characters of the text that the part stands for, -1 where it stands for none.
    `by` says of what: tokens of the training example (`loss-token`, `position`, `sentence`) or of the query (`query-token`),
    modules or layers of the model.
    """

    query_id: str
    train_id: str
    by: str
    names: Sequence[str]
    scores: Float64[np.ndarray, " n"]
    starts: Int64[np.ndarray, " n"]
    ends: Int64[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def total(self) -> float:
        """The sum of the parts: the score of the pair."""
        return float(self.scores.sum())

    def top(self, k: int = 10) -> pd.DataFrame:
        """The k parts furthest from zero, furthest first: columns part, name, score."""
        order = np.argsort(-np.abs(self.scores), kind="stable")[:k]
        names = [self.names[j] for j in order]
        return pd.DataFrame({"part": order, "name": pd.Series(names, dtype=object), "score": self.scores[order]})


@dataclass(frozen=True, eq=False)
class Parts:
    """Folds of the scores of some pairs, in the order of the queries and of their examples."""

    folds: Sequence[Fold] = field(default_factory=tuple[Fold, ...])

    def __len__(self) -> int:
        return len(self.folds)

    def __iter__(self) -> Iterator[Fold]:
        return iter(self.folds)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(query id, training id) of every pair, each once."""
        return list(dict.fromkeys((fold.query_id, fold.train_id) for fold in self.folds))

    @property
    def by(self) -> tuple[str, ...]:
        """The ways in which the scores were taken apart."""
        return tuple(dict.fromkeys(fold.by for fold in self.folds))

    def of(self, query_id: str, train_id: str, by: str) -> Fold:
        """One fold of one pair. Raises InputError if it is not there."""
        found = self._known.get((query_id, train_id, by))
        if found is None:
            raise InputError(
                f"There are no parts by '{by}' of query {query_id!r} and example {train_id!r}; there are parts by "
                f"{', '.join(self.by) or 'nothing'} of {len(self.pairs)} pairs. Ask for them with assay.parts."
            )
        return found

    def find(self, query_id: str, train_id: str, by: str) -> Fold | None:
        """The same, None if it is not there."""
        return self._known.get((query_id, train_id, by))

    def to_frame(self) -> pd.DataFrame:
        """One line a part: query_id, train_id, by, part (its number from 0), name, start, end, score."""
        folds = self.folds
        texts = {name: [getattr(fold, name) for fold in folds for _ in fold.names] for name in _KEYS}
        numbers = [range(len(fold)) for fold in folds]
        return pd.DataFrame(
            {
                **{name: pd.Series(column, dtype=object) for name, column in texts.items()},
                "part": np.array([part for some in numbers for part in some], np.int64),
                "name": pd.Series([name for fold in folds for name in fold.names], dtype=object),
                "start": _joined([fold.starts for fold in folds], np.int64),
                "end": _joined([fold.ends for fold in folds], np.int64),
                "score": _joined([fold.scores for fold in folds], np.float64),
            }
        )

    def to_dict(self) -> dict[tuple[str, str, str], dict[str, Any]]:
        """For each (query id, training id, by): names, scores and total."""
        return {
            key: {"names": list(fold.names), "scores": fold.scores.tolist(), "total": fold.total}
            for key, fold in self._known.items()
        }

    def write(self, path: Path) -> None:
        """As Parquet, the columns of `to_frame`."""
        frame = self.to_frame()
        write_columns({name: _column(cast(Any, frame)[name]) for name in frame.columns}, path)

    @classmethod
    def read(cls, run: Run) -> Self:
        """What `write` wrote into a run. Raises InputError for a damaged file."""
        columns = {name: column.to_pylist() for name, column in read_columns(run, FILE).items()}
        lines: dict[tuple[str, str, str], list[int]] = {}
        try:
            for line, key in enumerate(zip(*(columns[name] for name in _KEYS), strict=True)):
                lines.setdefault(cast(Any, key), []).append(line)
            return cls([_fold(key, chosen, columns) for key, chosen in lines.items()])
        except (KeyError, TypeError, ValueError) as error:
            raise corrupt(run.directory / FILE, str(error)) from error

    @cached_property
    def _known(self) -> dict[tuple[str, str, str], Fold]:
        return {(fold.query_id, fold.train_id, fold.by): fold for fold in self.folds}


_KEYS = ("query_id", "train_id", "by")


def _fold(key: tuple[str, str, str], lines: Sequence[int], columns: dict[str, list[Any]]) -> Fold:
    names, starts, ends, scores = (
        [columns[name][line] for line in lines] for name in ("name", "start", "end", "score")
    )
    return Fold(*key, names, np.array(scores, np.float64), np.array(starts, np.int64), np.array(ends, np.int64))


def _joined(arrays: Sequence[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype), *arrays])


def _column(series: Any) -> Any:
    """Texts as UTF-8; half of a surrogate pair, which has none, as a question mark."""
    values: list[Any] = series.tolist()
    return [v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for v in values]
