"""The examples of an index as people read them: `examples.parquet` beside the shards (id, source, text)."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from assay.errors import CorruptIndex, StorageError
from assay.examples import Examples
from assay.tables import Table

FILE = "examples.parquet"
_ROWS = 1024
_parquet = cast(Any, pq)  # its types are incomplete
_arrow = cast(Any, pa)
_SCHEMA = _arrow.schema([("id", _arrow.string()), ("source", _arrow.string()), ("text", _arrow.string())])


def write_texts(root: Path, examples: Examples, keep: int = 0) -> None:
    """Write the texts of `examples`, after the first `keep` rows of what is there; all or nothing."""
    path, temporary = root / FILE, root / f"{FILE}.tmp"
    try:
        with _parquet.ParquetWriter(temporary, _SCHEMA) as writer:
            for batch in _kept(path, keep) if keep else ():
                writer.write_batch(batch)
            for start in range(0, len(examples), _ROWS):
                writer.write_batch(_batch(examples[start : start + _ROWS]))
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(
            f"The texts cannot be written to '{path}': {error}. The shards written so far are kept; make room and run "
            "the same command again to resume."
        ) from error


def read_texts(root: Path, total: int, rows: Int64[np.ndarray, " k"] | None = None) -> Table:
    """A table of the rows at these ascending positions, or of all."""
    rows = np.arange(total) if rows is None else rows
    try:
        file = _parquet.ParquetFile(root / FILE)
        if file.metadata.num_rows < total:
            raise CorruptIndex(
                f"'{root / FILE}' has {file.metadata.num_rows} rows for an index of {total}; build it again."
            )
        parts = list(_chosen(file, rows))
    except (OSError, _arrow.ArrowException) as error:
        raise CorruptIndex(f"'{root / FILE}' cannot be read: {error}. Build the index again.") from error
    table = _arrow.Table.from_batches(parts, schema=_SCHEMA)
    ids, sources, texts = (table.column(name).to_pylist() for name in ("id", "source", "text"))
    return Table(ids, sources, texts, rows, total)


def _chosen(file: Any, rows: Int64[np.ndarray, " k"]) -> Iterator[Any]:
    """Batches of the chosen rows; only row groups that hold one are read."""
    first = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        inside = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + count)] - first
        if len(inside):
            yield from file.read_row_group(group).take(inside).to_batches()
        first += count


def _batch(examples: Examples) -> Any:
    # a lone surrogate cannot be stored as UTF-8; it is shown as a question mark
    texts = [text.encode("utf-8", "replace").decode() for text in examples.texts]
    return _arrow.record_batch([list(examples.ids), list(examples.sources), texts], schema=_SCHEMA)


def _kept(path: Path, keep: int) -> Iterator[Any]:
    for batch in _parquet.ParquetFile(path).iter_batches(_ROWS):
        if keep <= 0:
            return
        yield batch.slice(0, min(keep, batch.num_rows))
        keep -= batch.num_rows
