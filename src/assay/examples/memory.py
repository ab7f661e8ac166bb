"""Rows from objects in memory: dicts, strings, pandas, pyarrow, `datasets` and torch datasets, arrays.

Libraries are recognised by the classes that are already loaded, so that nothing is imported for a check.
"""

import sys
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np

from assay.errors import DataError
from assay.examples.arrays import read_arrays, read_items
from assay.examples.files import BLOCK_ROWS, NumberedRows, rows_of_blocks
from assay.examples.schema import Columns
from assay.examples.tabular import make_table
from assay.examples.types import Rows


def arrays_of(source: Any, *, name: str, limit: int | None) -> Rows | None:
    """The source as array examples, or None where it holds text."""
    if _is_arrays(source):
        X, y, weight = (*source, None)[:3]
        if weight is not None or _is_a(X, "pandas", "DataFrame") or _has_missing(X):
            parts = [None if part is None else part[:limit] for part in (X, _numbers(y), _numbers(weight))]
            features = parts[0] if _is_a(X, "pandas", "DataFrame") else _numbers(parts[0])
            return make_table(
                features, parts[1], parts[2], name=name, given=f"(X, y{', weight' * (weight is not None)})"
            )
        return read_arrays(_values(X), _values(y), name=name, given="(X, y)", limit=limit)
    if isinstance(source, np.ndarray) or _is_a(source, "torch", "Tensor"):
        return read_arrays(source, None, name=name, given="X", limit=limit)
    if _is_indexed(source):
        given = type(source).__name__
        if len(source) == 0:
            raise DataError(f"{given} holds no rows; expected at least one example.")
        first = source[0]
        if not isinstance(first, str) and not (isinstance(first, Mapping) and "x" not in first):
            return read_items(source, name=name, given=given, limit=limit)
    return None


def rows_of(source: Any, columns: Columns) -> NumberedRows:
    """The rows of an object that holds text, numbered from 1. Raises DataError for another type."""
    if _is_a(source, "pandas", "DataFrame"):
        return _frame(source, columns)
    if _is_a(source, "pyarrow", "Table") or _is_a(source, "pyarrow", "RecordBatch"):
        names: list[str] = source.schema.names
        present = [column for column in columns.wanted() if column in names]
        chosen = source.select(present)
        blocks = chosen.to_batches() if _is_a(source, "pyarrow", "Table") else [chosen]
        return rows_of_blocks(blocks, names, present)
    if _is_a(source, "datasets", "DatasetDict"):
        raise DataError(
            f"A DatasetDict holds several splits ({', '.join(source)}); give one, such as dataset['train']."
        )
    if _is_a(source, "datasets", "Dataset"):
        names = source.column_names
        present = [column for column in columns.wanted() if column in names]
        blocks = source.select_columns(present).with_format("arrow").iter(BLOCK_ROWS)
        return rows_of_blocks(blocks, names, present)
    if _is_indexed(source):
        return _items((source[i] for i in range(len(source))), columns, type(source).__name__)
    given = type(source).__name__
    if isinstance(source, Iterable) and not isinstance(source, str | bytes | Mapping):
        return _items(cast("Iterable[Any]", source), columns, given)
    raise DataError(
        f"Cannot read examples from a {given}. Expected a path, a list of dicts, a pandas DataFrame, "
        "a pyarrow Table, a datasets or torch Dataset, or arrays (X, y)."
    )


def _items(items: Iterable[Any], columns: Columns, given: str) -> NumberedRows:
    for number, item in enumerate(items, 1):
        if isinstance(item, str):
            yield number, {columns.name("text"): item}
        elif isinstance(item, Mapping):
            yield number, cast("Mapping[str, Any]", item)
        else:
            raise DataError(
                f"{given} row {number} is a {type(item).__name__}; expected a dict with 'text', or with "
                "'prompt' and 'completion', or with 'messages'. Arrays are given as a tuple (X, y)."
            )


def _frame(frame: Any, columns: Columns) -> NumberedRows:
    names = [str(column) for column in frame.columns]
    wanted = [column for column in frame.columns if str(column) in columns.wanted()]
    repeated = next((name for name in map(str, wanted) if names.count(name) > 1), None)
    if repeated is not None:
        raise DataError(f"DataFrame: the column '{repeated}' appears twice; rename one.")
    ignored = dict.fromkeys(names, "(not read)")
    number = 0
    for start in range(0, len(frame), BLOCK_ROWS):
        part = frame.iloc[start : start + BLOCK_ROWS]
        values = {str(column): _objects(part[column]) for column in wanted}
        for row in range(len(part)):
            number += 1
            yield number, {**ignored, **{name: column[row] for name, column in values.items()}}


def _objects(series: Any) -> list[Any]:
    """Python objects with None for every kind of missing value that pandas knows."""
    return list(series.astype(object).where(series.notna(), None))


def _is_arrays(source: Any) -> bool:
    """(X, y) or (X, y, weight), as opposed to two or three rows."""
    if not isinstance(source, tuple) or len(cast("tuple[Any, ...]", source)) not in (2, 3):
        return False
    return not any(isinstance(member, str | Mapping) for member in cast("tuple[Any, ...]", source))


def _has_missing(X: Any) -> bool:
    """A table of numbers with missing values."""
    if not isinstance(X, np.ndarray):
        return False
    table = cast("np.ndarray[Any, Any]", X)
    return table.ndim == 2 and table.dtype.kind == "f" and bool(np.isnan(table).any())


def _numbers(member: Any) -> Any:
    """A numpy array of whatever was given."""
    if member is None:
        return None
    return member.detach().cpu().numpy() if hasattr(member, "detach") else np.asarray(_values(member))


def _values(member: Any) -> Any:
    return member.to_numpy() if hasattr(member, "to_numpy") else member


def _is_indexed(source: Any) -> bool:
    """A torch dataset with items by position (others are iterated)."""
    return _is_a(source, "torch.utils.data", "Dataset") and all(
        hasattr(source, method) for method in ("__getitem__", "__len__")
    )


def is_frame(source: Any) -> bool:
    """Whether it is a pandas DataFrame."""
    return _is_a(source, "pandas", "DataFrame")


def _is_a(source: Any, module: str, name: str) -> bool:
    """Whether the source is an instance of a class whose module is already loaded."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(source, kind)
