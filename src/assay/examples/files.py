"""Rows from files: JSON lines, JSON, CSV, TSV, plain text, Parquet, a `save_to_disk` folder.

All but JSON are read in pieces, so that a file larger than memory can be read; `.gz` is unpacked on the way.
Nothing in a file is executed: no pickle, and the folder is read as Arrow data without its loading script.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow
import pyarrow.parquet

from assay.errors import DataError
from assay.examples.schema import Columns, excerpt

pa, pq = cast("Any", pyarrow), cast("Any", pyarrow.parquet)  # they ship no types

NumberedRows = Iterator[tuple[int, Mapping[str, Any]]]
SEPARATOR = "<|endoftext|>"
BLOCK_ROWS = 1024
LARGEST_FIELD = 2**31 - 1  # characters of one CSV cell; the csv module's own limit is 131,072


def rows_of(path: Path, columns: Columns) -> tuple[NumberedRows, str]:
    """The rows of a file or folder, and what their numbers count ("line" or "row"). Raises DataError."""
    if path.is_dir():
        return _saved_dataset(path, columns), "row"
    suffix = suffix_of(path)
    if suffix not in READERS:
        known = ", ".join([*READERS, ".npz"])
        raise DataError(
            f"{path}: unknown kind of file '{suffix}'; expected {known} (text also as .gz), or a folder "
            "written by datasets.save_to_disk. Convert or rename the file."
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; expected at least one example.")
    return READERS[suffix](path, columns), "line" if suffix in (".jsonl", ".ndjson") else "row"


def suffix_of(path: Path) -> str:
    """The extension that tells the format, in small letters; `.jsonl` for `train.jsonl.gz`."""
    inner = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return inner.suffix.lower()


def stem_of(path: Path) -> str:
    """The name without its extensions of format and compression."""
    inner = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return inner.name if path.is_dir() else inner.stem


def _json_lines(path: Path, columns: Columns) -> NumberedRows:
    for number, line in _lines(path):
        if line.strip():
            yield number, _object(line, f"{path} line {number}")


def _object(line: str, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:  # ValueError: also integers of thousands of digits
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(
            f"{where} is not valid JSON ({reason}): {excerpt(line.strip())}\n"
            "Expected one JSON object on each line; correct or remove this one."
        ) from error
    return _mapping(value, where)


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(
            f"{where} is {_json_type(value)}: {excerpt(json.dumps(value))}\n"
            'Expected an object such as {"text": "..."}.'
        )
    return cast("dict[str, Any]", value)


def _json_type(value: Any) -> str:
    names: dict[Any, str] = {list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _json(path: Path, columns: Columns) -> NumberedRows:
    """One array of objects, read whole. A file that starts with an object is read as JSON lines."""
    with _opened(path) as file:
        data = file.read()
    text = _decoded(data, path, 1).removeprefix("\ufeff")
    if text.lstrip().startswith("{"):
        yield from _json_lines(path, columns)
        return
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        start = excerpt(text.splitlines()[line - 1].strip()) if text.strip() else "only white space"
        raise DataError(
            f"{path} line {line} is not valid JSON ({error}): {start}\nExpected an array of objects; correct the file."
        ) from error
    if not isinstance(values, list):
        raise DataError(f"{path} holds {_json_type(values)}; expected an array of objects, or one object a line.")
    for number, value in enumerate(cast("list[Any]", values), 1):
        yield number, _mapping(value, f"{path} row {number}")


def _delimited(delimiter: str) -> Callable[[Path, Columns], NumberedRows]:
    def read(path: Path, columns: Columns) -> NumberedRows:
        lines = (line for _, line in _lines(path))
        records = csv.reader(lines, delimiter=delimiter, strict=True)
        header = _record(records, path)
        if header is None:
            raise DataError(f"{path} holds no rows; expected a line of column names, then the rows.")
        repeated = next((name for name in header if name in columns.wanted() and header.count(name) > 1), None)
        if repeated is not None:
            raise DataError(f"{path}: the column '{repeated}' appears twice; rename one.")
        number = 0
        while (record := _record(records, path)) is not None:
            if not record:  # a blank line
                continue
            number += 1
            if len(record) != len(header):
                raise DataError(
                    f"{path} row {number} (line {records.line_num}) has {len(record)} fields, the first line "
                    f"names {len(header)}: {excerpt(delimiter.join(record))}\n"
                    "Quote fields that hold the separator."
                )
            yield number, _typed(dict(zip(header, record, strict=True)), columns)

    return read


def _record(records: Any, path: Path) -> list[str] | None:
    """The next record, or None at the end."""
    allowed = csv.field_size_limit(LARGEST_FIELD)  # process-wide, so for this one record only
    try:
        return next(records, None)
    except csv.Error as error:
        raise DataError(
            f"{path} line {records.line_num}: {error}. Quotes inside a field are doubled, and every "
            "quoted field is closed; correct the file or write it as JSON lines."
        ) from error
    finally:
        csv.field_size_limit(allowed)


def _typed(row: dict[str, str], columns: Columns) -> dict[str, Any]:
    """A delimited file has no types: a label that reads as a number is one."""
    label = columns.name("label")
    return {**row, label: _number(row[label])} if label in row else row


def _number(cell: str) -> int | float | str:
    """Plain decimals only: "01" and "1_000" stay text, so no two different cells become one label."""
    digits = cell.removeprefix("-")
    if digits.isascii() and digits.isdigit() and (digits == "0" or digits[0] != "0"):
        return int(cell) if len(digits) < 19 else cell
    whole, point, fraction = digits.partition(".")
    if point and whole.isascii() and whole.isdigit() and fraction.isascii() and fraction.isdigit():
        return float(cell)
    return cell


def _plain_text(path: Path, columns: Columns) -> NumberedRows:
    """Examples between `<|endoftext|>` marks where the file has any, else paragraphs between blank lines."""
    marked = any(SEPARATOR in line for _, line in _lines(path))
    pieces = _marked(path) if marked else _paragraphs(path)
    texts = (text for text in (piece.strip() for piece in pieces) if text)
    for number, text in enumerate(texts, 1):
        yield number, {columns.name("text"): text}


def _marked(path: Path) -> Iterator[str]:
    parts: list[str] = []
    for _, line in _lines(path):
        *ended, rest = line.split(SEPARATOR)
        for end in ended:
            yield "".join([*parts, end])
            parts = []
        parts.append(rest)
    yield "".join(parts)


def _paragraphs(path: Path) -> Iterator[str]:
    parts: list[str] = []
    for _, line in _lines(path):
        if line.strip():
            parts.append(line)
        elif parts:
            yield "".join(parts)
            parts = []
    yield "".join(parts)


def _parquet(path: Path, columns: Columns) -> NumberedRows:
    with _arrow_errors(path, "a Parquet file"):
        file: Any = pq.ParquetFile(path, memory_map=True)
        names: list[str] = file.schema_arrow.names
        present = [name for name in columns.wanted() if name in names]
        blocks: Iterator[Any] = file.iter_batches(batch_size=BLOCK_ROWS, columns=present)
        yield from rows_of_blocks(blocks, names, present)


def _saved_dataset(folder: Path, columns: Columns) -> NumberedRows:
    """The Arrow streams of a `datasets.save_to_disk` folder, in the order that its `state.json` lists."""
    paths = _saved_files(folder)
    for path in paths:
        if path.parent.resolve() != folder.resolve() or not path.is_file():
            raise DataError(f"{folder}: the file '{path.name}' that state.json lists is missing; save it again.")
    number = 0
    for path in paths:
        with _arrow_errors(path, "an Arrow stream"):
            reader: Any = pa.ipc.open_stream(pa.memory_map(str(path), "r"))
            names: list[str] = reader.schema.names
            present = [name for name in columns.wanted() if name in names]
            for _, row in rows_of_blocks((batch.select(present) for batch in reader), names, present):
                number += 1
                yield number, row


def _saved_files(folder: Path) -> list[Path]:
    if (folder / "dataset_dict.json").is_file():
        splits = ", ".join(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))
        raise DataError(f"{folder} holds several splits ({splits}); give the folder of one, such as {folder}/train.")
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return [folder / entry["filename"] for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} is a folder without a usable state.json; expected one that datasets.save_to_disk "
            "wrote. Give a data file inside it, or save the dataset with dataset.save_to_disk(folder)."
        ) from error


def rows_of_blocks(blocks: Iterable[Any], names: list[str], present: list[str]) -> NumberedRows:
    """Rows of Arrow blocks with the columns `present`; `names` are all columns, for messages."""
    if not present:  # blocks without columns may have no length; let the first row report it
        yield 1, dict.fromkeys(names, "(not read)")
        return
    ignored = dict.fromkeys(names, "(not read)")
    number = 0
    for block in blocks:
        for start in range(0, block.num_rows, BLOCK_ROWS):
            part = block.slice(start, BLOCK_ROWS)
            columns = {name: part.column(name).to_pylist() for name in present}
            for row in range(part.num_rows):
                number += 1
                yield number, {**ignored, **{name: values[row] for name, values in columns.items()}}


@contextmanager
def _arrow_errors(path: Path, expected: str) -> Generator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as {expected} ({excerpt(str(error), 200)}); it may be cut short. Write it again."
        ) from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines with their ends, decoded one by one so that a wrong byte names its line."""
    with _opened(path) as file:
        for number, raw in enumerate(file, 1):
            line = _decoded(raw, path, number)
            yield number, line.removeprefix("\ufeff") if number == 1 else line


def _decoded(raw: bytes, path: Path, first_line: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line = first_line + before.count(b"\n")
        start = before[before.rfind(b"\n") + 1 :].decode("utf-8")
        raise DataError(
            f"{path} line {line} is not UTF-8 (byte 0x{raw[error.start]:02x} after '{excerpt(start)}'). "
            "Expected UTF-8 text; convert the file, for example with: iconv -f latin1 -t utf-8"
        ) from error


@contextmanager
def _opened(path: Path) -> Generator[BinaryIO]:
    try:
        with cast("BinaryIO", gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")) as file:
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a complete gzip file ({error}); compress it again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); check the file.") from error


READERS: dict[str, Callable[[Path, Columns], NumberedRows]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".txt": _plain_text,
    ".parquet": _parquet,
}
