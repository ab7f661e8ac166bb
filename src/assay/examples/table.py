"""Examples of text in Arrow record batches: in memory while small, mapped from a temporary file when large.

Rows arrive one by one; memory stays at one batch plus 8 bytes a row (its line, and while duplicates are
looked for a hash of its id), whatever the size of the source. The temporary file lies in the directory of
`TMPDIR`. Its name is removed as soon as it is mapped, so the space returns when the last reader is gone,
also after a kill.
"""

import json
import os
import tempfile
from array import array
from bisect import bisect_right
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow

from assay.errors import DataError, StorageError
from assay.examples.schema import CONTENT, OPTIONAL, Columns, Row, RowParser, TextKind, excerpt
from assay.examples.types import Example, FieldName, Kind, Rows
from assay.progress import task

pa = cast("Any", pyarrow)  # it ships no types
Batch = Any  # pyarrow.RecordBatch

SPOOL_ABOVE = 64 * 2**20  # bytes of rows that stay in memory
BATCH_ROWS = 16_384
BATCH_BYTES = 8 * 2**20

Numbered = Iterable[tuple[int, Mapping[str, Any]]]
"""Rows with their 1-based line (JSON lines) or row number."""


class TableRows(Rows):
    """Record batches with the columns `id`, `source`, `label` (as JSON) and those of the kind."""

    def __init__(self, kind: TextKind, batches: list[Batch]) -> None:
        self.kind: Kind = kind
        self._names = CONTENT[kind]
        self._batches = batches
        self._ends: list[int] = list(accumulate(batch.num_rows for batch in batches))

    def __len__(self) -> int:
        return self._ends[-1]

    def example(self, position: int) -> Example:
        """One row, in O(log batches)."""
        batch, row = self._locate(position)
        return self._example({name: batch.column(name)[row].as_py() for name in batch.schema.names})

    def field(self, name: FieldName, position: int) -> Any:
        """One cell."""
        if name == "text" and self.kind != "text":
            return self.example(position).text
        batch, row = self._locate(position)
        return _decode(name, batch.column(name)[row].as_py())

    def stream(self) -> Iterator[Example]:
        """All rows, 1,024 at a time."""
        for batch in self._small_batches():
            columns: dict[str, list[Any]] = {n: batch.column(n).to_pylist() for n in batch.schema.names}
            for values in zip(*columns.values(), strict=True):
                yield self._example(dict(zip(columns, values, strict=True)))

    def stream_field(self, name: FieldName) -> Iterator[Any]:
        """One column, 1,024 rows at a time."""
        if name == "text" and self.kind != "text":
            yield from (example.text for example in self.stream())
            return
        for batch in self._small_batches():
            yield from (_decode(name, value) for value in batch.column(name).to_pylist())

    def content(self, example: Example) -> Iterable[bytes]:
        """The text fields and the label."""
        for value in example.data.values():
            yield (value if isinstance(value, str) else json.dumps(value, ensure_ascii=True)).encode()
        yield json.dumps(example.label).encode()

    def _example(self, row: dict[str, Any]) -> Example:
        data = {name: row[name] for name in self._names}
        data |= {name: row[name] for name in OPTIONAL[cast(TextKind, self.kind)] if row[name] is not None}
        return Example(row["id"], data, row["source"], _decode("label", row["label"]))

    def _locate(self, position: int) -> tuple[Batch, int]:
        block = bisect_right(self._ends, position)
        return self._batches[block], position - (self._ends[block - 1] if block else 0)

    def _small_batches(self) -> Iterator[Batch]:
        for batch in self._batches:
            for start in range(0, batch.num_rows, 1024):
                yield batch.slice(start, 1024)


def read_rows(rows: Numbered, columns: Columns, *, name: str, given: str, unit: str) -> TableRows:
    """Check and store rows.

    `name` is the stem of ids for rows without one, `given` the source in messages, `unit` what a number
    counts ("line" or "row"). Raises DataError for a row that cannot be used, equal ids, or no rows.
    """
    parse, store, ids = RowParser(columns), _Store(), _Ids(given, unit)
    try:
        with task(f"reading {given}", None) as advance:
            for number, raw in rows:
                row = parse(raw, f"{given} {unit} {number}")
                ids.add(row.id, number)
                store.add(row, row.id or f"{name}:{number}")
                advance()
        if parse.kind is None:
            raise DataError(f"{given} holds no rows; expected at least one example.")
        table = TableRows(parse.kind, store.finish())
    except BaseException:
        store.discard()
        raise
    ids.check(table)
    return table


class _Ids:
    """Finds equal ids among millions in 16 bytes each: the row's number while reading, a hash afterwards."""

    def __init__(self, given: str, unit: str) -> None:
        self._given, self._unit = given, unit
        self._numbers = array("q")
        self._any_explicit = False

    def add(self, explicit: str | None, number: int) -> None:
        self._any_explicit = self._any_explicit or explicit is not None
        self._numbers.append(number)

    def check(self, table: TableRows) -> None:
        """Raise DataError for the first row whose id an earlier row has."""
        if not self._any_explicit:  # numbers differ by construction
            return
        hashes = np.fromiter((hash(value) for value in table.stream_field("id")), np.int64, len(table))
        order = np.argsort(hashes, kind="stable")
        same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
        for k in same[np.argsort(order[same + 1])]:
            first, second = int(order[k]), int(order[k + 1])
            repeated = table.field("id", second)
            if table.field("id", first) == repeated:  # not only their hashes
                raise DataError(
                    f"{self._given} {self._unit} {self._numbers[second]} has the id '{excerpt(repeated)}', "
                    f"as has {self._unit} {self._numbers[first]}; ids must be unique. Change one, or remove "
                    "the ids: rows without an id are numbered."
                )


class _Store:
    """Collects rows into batches; they move to a mapped file once they outgrow `SPOOL_ABOVE`."""

    def __init__(self) -> None:
        self._schema: Any = None
        self._pending: list[dict[str, Any]] = []
        self._pending_bytes = self._stored_bytes = 0
        self._batches: list[Batch] = []
        self._file: _SpoolFile | None = None

    def add(self, row: Row, id: str) -> None:
        self._schema = self._schema or _schema(row.kind)
        self._pending.append({"id": id, "source": row.source, "label": row.label, **row.data})
        self._pending_bytes += _size(row.data)
        if len(self._pending) >= BATCH_ROWS or self._pending_bytes >= BATCH_BYTES:
            self._flush()

    def finish(self) -> list[Batch]:
        """The batches, in order."""
        if self._pending:
            self._flush()
        return self._batches if self._file is None else self._file.map()

    def discard(self) -> None:
        """Remove what was written, after a failure."""
        if self._file is not None:
            self._file.remove()

    def _flush(self) -> None:
        batch = pa.RecordBatch.from_pylist(self._pending, schema=self._schema)
        self._pending, self._pending_bytes = [], 0
        if self._file is not None:
            self._file.write(batch)
            return
        self._batches.append(batch)
        self._stored_bytes += batch.nbytes
        if self._stored_bytes > SPOOL_ABOVE:
            self._file = _SpoolFile(self._schema)
            for stored in self._batches:
                self._file.write(stored)
            self._batches = []


class _SpoolFile:
    """An Arrow IPC file in the temporary directory that is written once, then mapped and unlinked."""

    def __init__(self, schema: Any) -> None:
        with _writing():
            handle, path = tempfile.mkstemp(prefix="assay-", suffix=".arrow")
            os.close(handle)
            self._path = Path(path)
            self._writer: Any = pa.ipc.new_file(path, schema)

    def write(self, batch: Batch) -> None:
        with _writing():
            self._writer.write_batch(batch)

    def map(self) -> list[Batch]:
        """The batches written, backed by the file: their pages need no memory that others want."""
        with _writing():
            self._writer.close()
        reader: Any = pa.ipc.open_file(pa.memory_map(str(self._path), "r"))
        self.remove()
        return [reader.get_batch(i) for i in range(reader.num_record_batches)]

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


@contextmanager
def _writing() -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"Writing the rows to {tempfile.gettempdir()} failed ({error}). Large sources are spooled there; "
            "set TMPDIR to a directory on a disk with more room."
        ) from error


def _schema(kind: TextKind) -> Any:
    string = pa.string()
    message = pa.struct([("role", string), ("content", string)])
    content = [(name, pa.list_(message) if name == "messages" else string) for name in CONTENT[kind]]
    content += [(name, string) for name in OPTIONAL[kind]]
    return pa.schema([("id", string), ("source", string), ("label", string), *content])


def _size(data: Mapping[str, Any]) -> int:
    """Characters of content, to bound a batch."""
    if "messages" in data:
        return sum(len(message["content"]) for message in data["messages"])
    return sum(len(value) for value in data.values())


def _decode(name: str, value: Any) -> Any:
    return json.loads(value) if name == "label" and value is not None else value
