"""The rows a result speaks of: ids, sources, texts and a few numbers per row, of all examples or of some."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
from jaxtyping import Int64

from assay.errors import DataError, InputError
from assay.examples import Examples

Column = Sequence[Any] | np.ndarray
RESERVED = ("row", "id", "source", "text")


@dataclass(frozen=True, eq=False)
class Table:
    """Some rows of a data set of `total` examples.

    `rows[j]` is the position of the table's j-th line in the data set, ascending; a table of everything has
    `rows == arange(total)`. `columns` holds further values per line, such as a query's loss.
    """

    ids: Sequence[str]
    sources: Sequence[str | None]
    texts: Sequence[str]
    rows: Int64[np.ndarray, " n"]
    total: int
    columns: Mapping[str, Column] = field(default_factory=dict[str, Column])

    def __post_init__(self) -> None:
        lengths = {len(self.ids), len(self.sources), len(self.texts), len(self.rows)}
        lengths |= {len(column) for column in self.columns.values()}
        if len(lengths) > 1:
            raise InputError(f"A table's columns have different lengths: {sorted(lengths)}. Give one entry per row.")
        if taken := set(RESERVED) & set(self.columns):
            raise InputError(f"A table's extra columns cannot be called {sorted(taken)}; choose other names.")
        if len(self._line_of_id) < len(self.ids):
            raise DataError(f"The id {_repeated(self.ids)!r} occurs twice; ids must differ, because results name them.")

    @classmethod
    def of(cls, examples: Examples, **columns: Column) -> Self:
        """All rows of `examples`; texts stay where they are until somebody reads them."""
        n = len(examples)
        return cls(list(examples.ids), list(examples.sources), examples.texts, np.arange(n), n, columns)

    @classmethod
    def some(cls, examples: Examples, rows: Int64[np.ndarray, " k"]) -> Self:
        """The rows at these ascending positions; their texts are read now."""
        part = examples.select(rows)
        return cls(list(part.ids), list(part.sources), list(part.texts), rows, len(examples))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def whole(self) -> bool:
        """Whether it describes every row of the data set."""
        return len(self) == self.total

    def lines(self, rows: Int64[np.ndarray, " k"]) -> Int64[np.ndarray, " k"]:
        """The lines that describe these positions of the data set, all of which the table must hold."""
        lines = np.searchsorted(self.rows, rows)
        if len(rows) and (lines.max() >= len(self) or (self.rows[lines] != rows).any()):
            raise InputError("A result names rows that its table of examples does not hold; give it all examples.")
        return lines

    def row_of(self, example_id: str) -> int:
        """The position in the data set of the example called `example_id`."""
        if example_id not in self._line_of_id:
            raise InputError(f"There is no example with the id {example_id!r} in this result.")
        return int(self.rows[self._line_of_id[example_id]])

    @cached_property
    def _line_of_id(self) -> dict[str, int]:
        return {example_id: line for line, example_id in enumerate(self.ids)}


def _repeated(ids: Sequence[str]) -> str:
    seen: set[str] = set()
    return next(example_id for example_id in ids if example_id in seen or seen.add(example_id))
