"""Tables: columns of numbers and categories with a label, from a file, a DataFrame, or arrays with missing values.

A table keeps its columns as they are: text stays text (a category), an empty cell is a missing value. A table of
numbers alone is of kind "arrays" and so can also go to a model of arrays; one with categories is of kind "table".
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from assay.errors import DataError
from assay.examples.arrays import as_label, as_scalar, as_tensor, content_bytes
from assay.examples.files import READERS, suffix_of
from assay.examples.schema import CONTENT, Columns, excerpt
from assay.examples.types import Example, FieldName, Kind, Matrix, Rows

pandas = cast("Any", pd)  # partly typed
READ: dict[str, Callable[[Path], Any]] = {
    ".csv": lambda path: pandas.read_csv(path, skipinitialspace=True),
    ".tsv": lambda path: pandas.read_csv(path, sep="\t"),
    ".parquet": lambda path: pandas.read_parquet(path),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), lambda path: _of_json(path)),
}
assert set(READ) < {*READERS}


@dataclass(frozen=True)
class Roles:
    """What the columns of a table are for, where they are no features; None where there is no such column."""

    label: str | None = None
    weight: str | None = None
    id: str | None = None
    source: str | None = None

    def present(self, names: Iterable[str]) -> dict[str, str]:
        """The columns that are there, by role; `id` and `source` may be called so without being named."""
        found = set(names)
        named = {"label": self.label, "weight": self.weight, "id": self.id or "id", "source": self.source or "source"}
        return {role: name for role, name in named.items() if name is not None and name in found}

    def missing(self, names: Iterable[str]) -> list[str]:
        """Columns that were named and are not there."""
        known = set(names)
        return [name for name in (self.label, self.weight, self.id, self.source) if name and name not in known]


class TableRows(Rows):
    """Rows of a feature table X [n, features], a DataFrame or an array, with labels y and weights."""

    def __init__(self, matrix: Matrix, name: str, ids: list[str] | None = None, sources: list[Any] | None = None):
        self._matrix, self._name, self._ids, self._sources = matrix, name, ids, sources
        self.kind: Kind = "arrays" if self._numbers is not None else "table"

    def __len__(self) -> int:
        return len(self._matrix.X)

    @cached_property
    def _numbers(self) -> np.ndarray | None:
        X: Any = self._matrix.X
        if isinstance(X, np.ndarray):
            return cast("np.ndarray[Any, Any]", X)
        types = pandas.api.types
        fine = all(types.is_numeric_dtype(kind) or types.is_bool_dtype(kind) for kind in X.dtypes)
        if not fine:
            return None
        values = X.to_numpy()
        return values if values.dtype.kind in "biuf" else X.to_numpy(dtype=np.float64, na_value=np.nan)

    @cached_property
    def _columns(self) -> dict[str, list[Any]]:
        X: Any = self._matrix.X
        if isinstance(X, np.ndarray):
            numbers = cast("np.ndarray[Any, Any]", X)
            return {f"x{k}": cast("list[Any]", numbers[:, k].tolist()) for k in range(numbers.shape[1])}
        return {str(name): _objects(X[name]) for name in X.columns}

    def matrix(self) -> Matrix:
        """As it is kept."""
        return self._matrix

    def example(self, position: int) -> Example:
        """The row with its values by column, and as a tensor where all are numbers."""
        y = None if self._matrix.y is None else as_scalar(self._matrix.y[position])
        row = {name: values[position] for name, values in self._columns.items()}
        data: dict[str, Any] = {"row": row, "y": y}
        if self._matrix.weight is not None:
            data["weight"] = float(self._matrix.weight[position])
        if self._numbers is not None:
            data["x"] = as_tensor(self._numbers[position])
        return Example(self.field("id", position), data, self.field("source", position), as_label(y))

    def field(self, name: FieldName, position: int) -> Any:
        """One field; ids cost no look at the data."""
        if name == "id":
            return f"{self._name}:{position + 1}" if self._ids is None else self._ids[position]
        if name == "source":
            return None if self._sources is None else self._sources[position]
        if name == "label":
            return None if self._matrix.y is None else as_label(as_scalar(self._matrix.y[position]))
        return self.example(position).text

    def stream(self) -> Iterator[Example]:
        """All examples, one by one."""
        return (self.example(position) for position in range(len(self)))

    def stream_field(self, name: FieldName) -> Iterator[Any]:
        """One field of all rows, one by one."""
        return (self.field(name, position) for position in range(len(self)))

    def content(self, example: Example) -> Iterable[bytes]:
        """Values by column, label and weight; a table of numbers is what the same array is."""
        if "x" in example.data and "weight" not in example.data:
            for value in (example.data["x"], example.data["y"]):
                yield from content_bytes(value)
            return
        yield repr((example.data["row"], example.data["y"], example.data.get("weight"))).encode()


def is_table(path: Path, columns: Columns) -> bool:
    """Whether a file is to be read as a table: a label is named, and no column holds text to read."""
    if columns.label is None or any(getattr(columns, name) for kind in CONTENT.values() for name in kind):
        return False
    return path.is_file() and suffix_of(path) in READ and path.stat().st_size > 0 and not _has_text(_head(path))


def has_no_text(frame: Any, columns: Columns) -> bool:
    """Whether a DataFrame is a table in the same sense."""
    named = any(getattr(columns, name) for kind in CONTENT.values() for name in kind)
    return columns.label is not None and not named and not _has_text([str(name) for name in frame.columns])


def read_table(path: Path, roles: Roles, *, name: str, limit: int | None) -> TableRows:
    """The file as a table. Raises DataError."""
    return table_of(_read(path), roles, name=name, given=str(path), limit=limit)


def table_of(frame: Any, roles: Roles, *, name: str, given: str, limit: int | None) -> TableRows:
    """A DataFrame with the columns of `roles` among its own. Raises DataError."""
    frame = frame.reset_index(drop=True).iloc[:limit]
    frame.columns = [str(column) for column in frame.columns]
    names = list(frame.columns)
    if missing := roles.missing(names):
        known = ", ".join(names[:20]) + (" and more" if len(names) > 20 else "")
        raise DataError(f"{given} has no column '{missing[0]}', which was named; found: {known}.")
    if len(set(names)) < len(names):
        raise DataError(f"{given}: a column name appears twice; rename one.")
    taken = roles.present(names)
    X = frame.drop(columns=list(taken.values()))
    ids = [str(value) for value in frame[taken["id"]]] if "id" in taken else None
    sources = [None if value is None else str(value) for value in _objects(frame[taken["source"]])] \
        if "source" in taken else None  # fmt: skip
    y = frame[taken["label"]].to_numpy() if "label" in taken else None
    weight = frame[taken["weight"]].to_numpy() if "weight" in taken else None
    return make_table(X, y, weight, name=name, given=given, ids=ids, sources=sources)


def make_table(
    X: Any,
    y: Any,
    weight: Any,
    *,
    name: str,
    given: str,
    ids: list[str] | None = None,
    sources: list[Any] | None = None,
) -> TableRows:
    """X [n, features] with one y and one weight for each row. NaN in X is a missing value. Raises DataError."""
    if getattr(X, "ndim", 0) != 2 or len(X) == 0 or X.shape[1] == 0:
        shape = tuple(getattr(X, "shape", ()))
        raise DataError(f"{given}: the features have the shape {shape}; expected a table with rows and columns.")
    table = cast(Any, X if isinstance(X, np.ndarray) else _plain(X, given))
    y, weight = _labels(y, len(table), given), _weights(weight, len(table), given)
    if isinstance(table, np.ndarray) and (infinite := np.isinf(cast(Any, table))).any():
        raise DataError(f"{given} row {int(infinite.any(1).argmax()) + 1}: X holds infinity; expected numbers.")
    return TableRows(Matrix(table, y, weight), name, ids, sources)


def _plain(frame: Any, given: str) -> Any:
    """Columns of numbers, truth values and categories, no others."""
    types = pandas.api.types
    for name in frame.columns:
        if types.is_datetime64_any_dtype(frame[name].dtype):
            raise DataError(f"{given}: the column '{name}' holds dates; make numbers of them, or leave it out.")
    return frame.reset_index(drop=True)


def _labels(values: Any, rows: int, given: str) -> Any:
    if values is None:
        return None
    array = np.asarray(values)
    if len(array) != rows:
        raise DataError(f"{given}: X has {rows} rows and y has {len(array)}; expected one y for each row.")
    bad = np.asarray(pandas.isna(array)).reshape(rows, -1).any(1)
    if bad.any():
        raise DataError(
            f"{given} row {int(bad.argmax()) + 1}: y is missing; expected a label. Fill it or drop the row."
        )
    if array.dtype.kind in "OUST":
        return np.array([value if isinstance(value, int | float) else str(value) for value in array.tolist()], object)
    return array


def _weights(values: Any, rows: int, given: str) -> Any:
    if values is None:
        return None
    try:
        array = np.asarray(values, np.float64)
    except (ValueError, TypeError) as error:
        raise DataError(f"{given}: the weights are no numbers ({error}).") from error
    if array.shape != (rows,) or not np.isfinite(array).all() or (array < 0).any():
        raise DataError(f"{given}: the weights must be {rows} finite numbers of at least 0, one for each row.")
    return array


def _objects(series: Any) -> list[Any]:
    """Python values with None for a missing one."""
    return list(series.astype(object).where(series.notna(), None))


def _has_text(names: Iterable[str]) -> bool:
    found = set(names)
    return any(found.issuperset(fields) for fields in CONTENT.values())


def _head(path: Path) -> list[str]:
    suffix = suffix_of(path)
    if suffix in (".csv", ".tsv"):
        return [str(name) for name in _told(path, lambda: pandas.read_csv(
            path, sep="\t" if suffix == ".tsv" else ",", nrows=0, skipinitialspace=True))]  # fmt: skip
    if suffix == ".parquet":
        import pyarrow.parquet as parquet

        return list(_told(path, lambda: cast("Any", parquet).read_schema(path).names))
    return [str(name) for name in _read(path).columns]


def _of_json(path: Path) -> Any:
    """The objects of a file as rows; dates stay text."""
    return pandas.DataFrame([dict(row) for _, row in READERS[suffix_of(path)](path, Columns())])


def _read(path: Path) -> Any:
    return _told(path, lambda: READ[suffix_of(path)](path))


def _told(path: Path, action: Any) -> Any:
    """The outcome; errors of the reading libraries as ours."""
    try:
        return action()
    except (ValueError, OSError, OverflowError) as error:  # pandas' and pyarrow's errors are ValueErrors
        reason = excerpt(str(error).splitlines()[0], 200) if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read as a table: {reason}. Correct the file.") from error
