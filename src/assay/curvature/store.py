"""Fitted factors on disk, and the sums of a fit that is not finished (`docs/curvature.md`).

    factors/
      facts.json               what is fitted: model, data, choice; another's directory is refused
      kfac/                    of EK-FAC: the factors, a directory like this one
      progress.safetensors     totals after some rows; replaced as the fit goes on, gone when it is done
      operator.safetensors     the fitted operator
      manifest.json            written last, with checksums: its presence means complete

Files are written under a temporary name, flushed and renamed, so that a kill at any moment leaves the file before or
the file after. Nothing is unpickled.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import safetensors
import torch
import xxhash
from safetensors import torch as safetensors_torch
from torch import Tensor

from assay.errors import CorruptIndex, IndexMismatch, StorageError

FORMAT, VERSION = "assay-curvature", 1
FACTS, PROGRESS, OPERATOR, MANIFEST = "facts.json", "progress.safetensors", "operator.safetensors", "manifest.json"
ROWS = "rows"
storage = cast(Any, safetensors_torch)  # its types are incomplete


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """All tensors or nothing. Raises StorageError."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        storage.save_file({name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}, temporary)
        _place(temporary, path)
    except (OSError, safetensors.SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise _full(path, error) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """All of it or nothing. Raises StorageError."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")
        _place(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _full(path, error) from error


def read_json(path: Path) -> dict[str, Any]:
    """Raises CorruptIndex."""
    try:
        content: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(content, dict):
        raise _damaged(path, "it is no JSON object")
    return cast(dict[str, Any], content)


def read_tensors(path: Path, checksum: str | None = None) -> dict[str, Tensor]:
    """All tensors; raises CorruptIndex for a file that is damaged, or not the one with this checksum."""
    if checksum is not None and (not path.is_file() or digest(path) != checksum):
        raise _damaged(path, "it does not match its checksum, or is missing")
    try:
        return storage.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise _damaged(path, str(error)) from error


def digest(path: Path) -> str:
    """XXH3, 128 bits, of a file."""
    hashed = xxhash.xxh3_128()
    with path.open("rb") as file:
        while part := file.read(2**24):
            hashed.update(part)
    return hashed.hexdigest()


def save(folder: Path, tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> None:
    """A finished operator: tensors, then the manifest."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _full(folder, error) from error
    write_tensors(folder / OPERATOR, tensors)
    about = {"format": FORMAT, "version": VERSION, "checksum": digest(folder / OPERATOR), **content}
    write_json(folder / MANIFEST, about)


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and content of a finished operator. Raises IndexMismatch for another version, CorruptIndex."""
    content = read_json(folder / MANIFEST)
    found = (content.pop("format", None), content.pop("version", None))
    if found != (FORMAT, VERSION):
        raise IndexMismatch(
            f"'{folder}' has format {found[0]!r} version {found[1]!r}; this version of assay reads {FORMAT!r} version "
            f"{VERSION}. Update assay, or fit the factors again."
        )
    return read_tensors(folder / OPERATOR, str(content.pop("checksum", ""))), content


class Workshop:
    """A directory in which a fit keeps what it has; None as folder keeps nothing.

    Raises IndexMismatch on entering a directory that holds another model's, data's or choice's factors.
    """

    def __init__(self, folder: Path | None, facts: Mapping[str, Any]) -> None:
        self.folder = folder
        if folder is None:
            return
        facts = json.loads(json.dumps(facts))
        if (folder / FACTS).is_file():
            _refuse_other(folder, read_json(folder / FACTS), facts)
            return
        if folder.exists() and (not folder.is_dir() or any(file.suffix != ".tmp" for file in folder.iterdir())):
            raise IndexMismatch(
                f"'{folder}' holds something else than factors. Name a new directory, or one of an earlier fit."
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _full(folder, error) from error
        write_json(folder / FACTS, facts)

    @property
    def done(self) -> bool:
        """Whether the operator is there."""
        return self.folder is not None and (self.folder / MANIFEST).is_file()

    def progress(self) -> tuple[int, dict[str, Tensor]] | None:
        """The rows that were done, and what was kept of them; None at the start."""
        if self.folder is None or not (self.folder / PROGRESS).is_file():
            return None
        tensors = read_tensors(self.folder / PROGRESS)
        return int(tensors.pop(ROWS)), tensors

    def keep(self, rows: int, tensors: Mapping[str, Tensor]) -> None:
        """Replace what is kept."""
        if self.folder is not None:
            write_tensors(self.folder / PROGRESS, {**tensors, ROWS: torch.tensor(rows)})

    def inside(self, name: str) -> Path | None:
        """The directory of a part that is fitted on its own."""
        return None if self.folder is None else self.folder / name

    def finish(self) -> None:
        """Drop what was kept on the way."""
        if self.folder is not None:
            (self.folder / PROGRESS).unlink(missing_ok=True)


def _refuse_other(folder: Path, stored: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    for name in [*given, *stored]:
        if stored.get(name) != given.get(name):
            raise IndexMismatch(
                f"The factors in '{folder}' were fitted with {name} {_short(stored.get(name))}, and "
                f"{_short(given.get(name))} was given. Use what they were fitted with, or name another directory."
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _place(temporary: Path, path: Path) -> None:
    """On disk, then under its name."""
    for target in (temporary, path.parent):
        handle = os.open(target, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        if target == temporary:
            os.replace(temporary, path)


def _full(path: Path, error: Exception) -> StorageError:
    return StorageError(f"'{path}' cannot be written: {error}. Free space or choose another directory; then run again.")


def _damaged(path: Path, what: str) -> CorruptIndex:
    return CorruptIndex(f"'{path}' is damaged: {what}. Remove the directory and fit the factors again.")
