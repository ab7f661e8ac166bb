"""Read examples: `assay.read` takes files, tables, datasets and arrays and gives one type, `Examples`."""

import os
from itertools import islice
from pathlib import Path
from typing import Any, cast

from assay.errors import DataError
from assay.examples import files, memory
from assay.examples.arrays import read_npz
from assay.examples.schema import Columns, excerpt
from assay.examples.table import read_rows
from assay.examples.tabular import Roles, has_no_text, is_table, read_table, table_of
from assay.examples.types import Example, Examples, Kind, Matrix

__all__ = ["Example", "Examples", "Kind", "Matrix", "read"]


def read(
    source: Any,
    *,
    text: str | None = None,
    prompt: str | None = None,
    completion: str | None = None,
    messages: str | None = None,
    contrast: str | None = None,
    id: str | None = None,
    source_column: str | None = None,
    label: str | None = None,
    weight: str | None = None,
    name: str | None = None,
    limit: int | None = None,
) -> Examples:
    """Read examples from a file or an object.

    Files: JSON lines (`.jsonl`, `.ndjson`), JSON (an array of objects), CSV and TSV (first line: column
    names), plain text (`.txt`), any of these also as `.gz`; Parquet; a folder written by
    `datasets.save_to_disk`; `.npz` with `X` and optionally `y`. Plain text is split at `<|endoftext|>` where
    the file has such marks, else at blank lines; white space around each piece is dropped.

    Objects: lists (or any iterable) of dicts or strings, a pandas DataFrame, a pyarrow Table, a `datasets` or
    torch dataset, X or (X, y) as numpy arrays or torch tensors, `Examples` (returned as they are).

    A row of text has `text`, or `prompt` and `completion`, or `messages` (a list of {role, content}; other
    keys of a message are ignored), and optionally `id`, `source` and `label`, and beside a completion
    `contrast` (another completion to compare with); other columns are ignored. All rows are of one kind. A
    row without `id` gets `name:n`, with n its 1-based line in JSON lines and its 1-based row elsewhere; equal
    rows stay separate examples. A label in CSV or TSV that reads as a number is one.

    A table is read where `label` is named and no column holds text: a file (CSV, TSV, Parquet, JSON lines, JSON) or a
    DataFrame whose columns are features, beside those named as label, `weight`, `id` and `source`. Numbers stay
    numbers, text is a category, an empty cell is a missing value. In memory: (X, y) or (X, y, weight), where X is a
    DataFrame or an array, and NaN in X is a missing value.

    Rows beyond 64 MiB are kept in a temporary file (in `TMPDIR`), so a source larger than memory can be read;
    only `.json` and `.npz` are read whole.

    Args:
        source: the path or object.
        text, prompt, completion, messages, contrast, id, source_column, label: the column of each field, where it is
            not called like the field (`source_column` for `source`). Naming content columns also settles the
            kind.
        weight: the column of a table's row weights.
        name: the stem of ids for rows without one; by default the file's name without extensions, or "row".
        limit: read only the first rows, this many.

    Raises:
        DataError: the source cannot be read; the message names the file and the line or row.
        StorageError: the temporary directory is full.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit is {limit}; expected at least 1, or None for all rows.")
    columns = Columns(text, prompt, completion, messages, contrast, id, source_column, label)
    roles = Roles(label, weight, id, source_column)
    if isinstance(source, Examples):
        return source if limit is None else source[:limit]
    if isinstance(source, str | os.PathLike):
        return _read_path(Path(cast("str | os.PathLike[str]", source)), columns, roles, name, limit)
    origin = type(source).__name__
    arrays = memory.arrays_of(source, name=name or "row", limit=limit)
    if arrays is not None:
        _refuse_columns(columns, origin)
        return Examples(arrays, "arrays" if isinstance(source, tuple) else origin)
    if memory.is_frame(source) and has_no_text(source, columns):
        return Examples(table_of(source, roles, name=name or "row", given=origin, limit=limit), origin)
    _refuse_weight(weight, origin)
    rows = islice(memory.rows_of(source, columns), limit)
    return Examples(read_rows(rows, columns, name=name or "row", given=origin, unit="row"), origin)


def _read_path(path: Path, columns: Columns, roles: Roles, name: str | None, limit: int | None) -> Examples:
    if not os.path.exists(path):  # unlike Path.exists, also False for a text too long for a name
        raise DataError(
            f"There is no file or folder '{excerpt(str(path), 200)}'; expected data to read. Check the path."
        )
    name = name or files.stem_of(path)
    if files.suffix_of(path) == ".npz" and path.is_file():
        _refuse_columns(columns, str(path))
        return Examples(read_npz(path, name=name, limit=limit), path.name)
    if is_table(path, columns):
        return Examples(read_table(path, roles, name=name, limit=limit), path.name)
    _refuse_weight(roles.weight, str(path))
    rows, unit = files.rows_of(path, columns)
    table = read_rows(islice(rows, limit), columns, name=name, given=str(path), unit=unit)
    return Examples(table, path.name)


def _refuse_weight(weight: str | None, given: str) -> None:
    if weight is not None:
        raise DataError(
            f"{given}: the weight column '{weight}' was named, and weights belong to tables. Name the column of the "
            "label too, or leave the weight out."
        )


def _refuse_columns(columns: Columns, given: str) -> None:
    if columns.any_named():
        raise DataError(f"{given} holds arrays, which have no columns; leave out the column names.")
