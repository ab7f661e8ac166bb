"""A run directory on disk: complete files first, `run.json` last, so that its presence means complete.

`docs/run-format.md` specifies it. Every file is written under a temporary name and renamed; `run.json` lists
size and SHA-256 of each. Files that are not part of a run are left alone. Nothing is executed on reading.
"""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from assay.errors import InputError, StorageError
from assay.jsonable import jsonable
from assay.provenance import Provenance

FORMAT, VERSION, MANIFEST = "assay-run", 1, "run.json"
FILES = ("scores.parquet", "scores.safetensors", "values.parquet", "train.parquet", "queries.parquet", "parts.parquet")
Writer = Callable[[Path], None]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Generator[Path]:
    """Write a file whole or not at all: yields a temporary path beside `path`, renamed to it at the end.

    Raises StorageError if the disk is full or the place cannot be written; what was there before stays.
    """
    path = Path(path)
    with _storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp") as staging:
            yield Path(staging) / path.name
            _finish(Path(staging) / path.name, path)


def write_run(directory: str | os.PathLike[str], manifest: Mapping[str, Any], writers: Mapping[str, Writer]) -> None:
    """Write the files, then the manifest, into `directory`, replacing an earlier run there.

    Every file is on disk under a temporary name before the earlier run is touched.
    """
    write_complete(directory, MANIFEST, lambda files: {**manifest, "files": files}, writers, FILES)


def write_complete(
    directory: str | os.PathLike[str],
    name: str,
    manifest: Callable[[dict[str, Any]], Mapping[str, Any]],
    writers: Mapping[str, Writer],
    stale: Iterable[str] = (),
) -> None:
    """Write the files, then the manifest `name`, made of their sizes and checksums; an earlier one goes first, with `stale` files."""
    directory = Path(directory)
    with _storage_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".run.", suffix=".tmp") as temporary:
            staging = Path(temporary)
            for file, write in writers.items():
                write(staging / file)
            content = manifest({file: describe(staging / file) for file in writers})
            text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
            (staging / name).write_text(text, encoding="utf-8")
            (directory / name).unlink(missing_ok=True)
            for file in set(stale) - set(writers):
                (directory / file).unlink(missing_ok=True)
            for file in (*writers, name):
                _finish(staging / file, directory / file)


def open_run(directory: str | os.PathLike[str]) -> "Run":
    """Read `run.json`; the other files are read and verified when they are needed.

    Raises InputError if there is none, it cannot be read, or a newer version of Assay wrote it.
    """
    directory = Path(directory)
    path = directory / MANIFEST
    if not directory.is_dir():
        raise InputError(f"{directory} is not a directory; expected a run directory, as written by `save`.")
    if not path.is_file():
        raise InputError(f"{directory} holds no {MANIFEST}, so it is not a run or was never completed; run it again.")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise corrupt(path, f"it is not readable JSON ({error})") from error
    if not isinstance(manifest, dict) or cast(Any, manifest).get("format") != FORMAT:
        raise InputError(f'{path} does not say "format": "{FORMAT}"; expected a run directory.')
    content = cast(dict[str, Any], manifest)
    if not isinstance(content.get("version"), int) or content["version"] > VERSION:
        raise InputError(
            f"{path} has format version {content.get('version')!r}; expected at most {VERSION}. Update Assay."
        )
    return Run(directory, content)


def annotate(directory: str | os.PathLike[str], evidence: Mapping[str, Any]) -> None:
    """Add evidence to a complete run, under names of its own or in the place of earlier evidence; only the manifest is written.

    Raises InputError if there is no run, StorageError if it cannot be written; then it is as before.
    """
    run = open_run(directory)
    content = {**run.manifest, "evidence": {**run.evidence(), **cast(dict[str, Any], jsonable(evidence))}}
    with replacing(run.manifest_path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False), encoding="utf-8")


def corrupt(path: Path, why: str) -> InputError:
    """The error for a run whose files are not what was written."""
    return InputError(f"The run is damaged at {path}: {why}. Copy it again, or run the attribution again.")


def describe(path: Path) -> dict[str, Any]:
    """Size and checksum, as the manifest keeps them."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _finish(temporary: Path, path: Path) -> None:
    """On disk for certain, then under its name."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


@contextmanager
def _storage_errors(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error)
        raise StorageError(f"Cannot write {path}: {reason}. Free some space or write elsewhere.") from error


@dataclass(frozen=True)
class Run:
    """A complete run directory: where it is and what its manifest says."""

    directory: Path
    manifest: Mapping[str, Any]

    @property
    def manifest_path(self) -> Path:
        """Where `run.json` lies."""
        return self.directory / MANIFEST

    @property
    def kind(self) -> str:
        """The kind of result: "scores" or "values"."""
        return str(self.manifest.get("kind"))

    def path(self, name: str) -> Path:
        """The path of one of the run's files, after comparing its size and checksum with the manifest.

        Raises InputError if the file is missing or not what was written.
        """
        path, listed = self.directory / name, self.manifest.get("files")
        if not isinstance(listed, dict) or name not in listed:
            raise corrupt(self.manifest_path, f"it does not list {name}")
        if not path.is_file():
            raise corrupt(path, "it is missing")
        if describe(path) != listed[name]:
            raise corrupt(path, "its content is not what was written")
        return path

    def count(self, name: str) -> int:
        """A non-negative integer of the manifest."""
        found = self.manifest.get(name)
        if not isinstance(found, int) or found < 0:
            raise corrupt(self.manifest_path, f'"{name}" is {found!r} instead of a count')
        return found

    def provenance(self) -> Provenance:
        """How the run was made."""
        known = {entry.name for entry in fields(Provenance)}
        entries: dict[str, Any] = {name: value for name, value in self.manifest.items() if name in known}
        try:
            entries["notes"] = tuple(entries.get("notes", ()))
            return Provenance(**entries)
        except (TypeError, AttributeError) as error:
            raise corrupt(self.manifest_path, str(error)) from error

    def evidence(self) -> dict[str, Any]:
        """What was attached to the run."""
        found = self.manifest.get("evidence", {})
        if not isinstance(found, dict):
            raise corrupt(self.manifest_path, '"evidence" is not an object')
        return cast(dict[str, Any], found)
