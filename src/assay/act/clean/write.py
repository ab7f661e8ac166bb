"""Write a data file without some of its rows: the other rows stay as they are, byte by byte where the format allows."""

import csv
import json
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Any, cast

import pyarrow
import pyarrow.parquet

from assay.errors import DataError, InputError
from assay.examples.files import LARGEST_FIELD, suffix_of
from assay.run_directory import replacing

pq = cast(Any, pyarrow.parquet)


def write_without(source: str | Path, out: str | Path, rows: Set[int]) -> Path:
    """Copy `source` to `out` without the examples at these positions, counted from 0; `source` stays as it is.

    CSV, TSV and JSON lines keep the other lines byte by byte; Parquet and JSON keep their rows. The file is whole or not there.

    Raises InputError if `out` exists or has another suffix, or the kind of file cannot be written; DataError for a file that
    has fewer rows than that; StorageError.
    """
    source, out = Path(source), Path(out)
    if out.exists():
        raise InputError(f"'{out}' exists; nothing is overwritten. Give another name, or remove it.")
    suffix = suffix_of(source)
    if suffix not in WRITERS or source.suffix.lower() == ".gz":
        raise InputError(f"'{source}' cannot be written again; expected one of {', '.join(WRITERS)}, not compressed.")
    if out.suffix.lower() != suffix:
        raise InputError(f"'{out}' has another suffix than '{source}'; the format stays, so name it *{suffix}.")
    with replacing(out) as temporary:
        count = WRITERS[suffix](source, temporary, rows)
        if rows and max(rows) >= count:
            raise DataError(f"{source} holds {count} rows, and row {max(rows) + 1} was to be left out; is it the file?")
    return out


def _lines(source: Path, out: Path, rows: Set[int]) -> int:
    """JSON lines."""
    count = 0
    with source.open("rb") as file, out.open("wb") as kept:
        for line in file:
            if not line.strip():
                kept.write(line)
                continue
            if count not in rows:
                kept.write(line)
            count += 1
    return count


def _delimited(delimiter: str) -> Callable[[Path, Path, Set[int]], int]:
    def write(source: Path, out: Path, rows: Set[int]) -> int:
        count = -1  # the line of names
        with source.open(encoding="utf-8", newline="") as file, out.open("w", encoding="utf-8", newline="") as kept:
            for record, text in _records(file, delimiter):
                if record and count >= 0 and count in rows:
                    count += 1
                    continue
                kept.write(text)
                count += bool(record)
        return count

    return write


def _records(file: Any, delimiter: str) -> Iterator[tuple[list[str], str]]:
    """Each record, and the lines it stands on as they are."""
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for line in file:
            taken.append(line)
            yield line

    allowed = csv.field_size_limit(LARGEST_FIELD)
    try:
        for record in csv.reader(lines(), delimiter=delimiter):
            text = "".join(taken)
            taken.clear()
            yield record, text
    finally:
        csv.field_size_limit(allowed)


def _parquet(source: Path, out: Path, rows: Set[int]) -> int:
    table = pq.read_table(source, partitioning=None)
    pq.write_table(table.take([k for k in range(table.num_rows) if k not in rows]), out)
    return int(table.num_rows)


def _json(source: Path, out: Path, rows: Set[int]) -> int:
    records = cast(list[Any], json.loads(source.read_text("utf-8-sig")))
    kept = [record for k, record in enumerate(records) if k not in rows]
    out.write_text(json.dumps(kept, ensure_ascii=False, indent=1), encoding="utf-8")
    return len(records)


WRITERS: dict[str, Callable[[Path, Path, Set[int]], int]] = {
    ".csv": _delimited(","), ".tsv": _delimited("\t"), ".jsonl": _lines, ".ndjson": _lines, ".parquet": _parquet,
    ".json": _json,
}  # fmt: skip
