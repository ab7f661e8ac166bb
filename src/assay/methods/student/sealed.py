"""Small directories that change hands: a JSON manifest, written last and sealed by a checksum over all of it, and data files.

The seal shows that nothing has changed since it was made, by accident or without making it anew; it does not prove who made it.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from assay.errors import InputError
from assay.jsonable import jsonable
from assay.run_directory import Writer, describe, write_complete


@dataclass(frozen=True)
class Kind:
    """What such a directory is called in messages, its files, and the format and version that its manifest states."""

    called: str
    manifest: str
    data: str
    format: str
    version: int

    def write(
        self, directory: str | os.PathLike[str], content: Mapping[str, Any], writers: Mapping[str, Writer]
    ) -> None:
        """Files first, the sealed manifest last; an earlier directory of this kind is replaced. Raises StorageError."""
        head = {"format": self.format, "version": self.version, **cast(dict[str, Any], jsonable(content))}
        self.check_free(directory)
        write_complete(directory, self.manifest, lambda files: sealed({**head, "files": files}), writers)

    def check_free(self, directory: str | os.PathLike[str]) -> None:
        """Refuse to write over what is something else; what an interrupted export left may be. Raises InputError."""
        place = Path(directory)
        if place.exists() and not place.is_dir():
            raise InputError(f"'{place}' is a file; {self.called} is a directory. Give another name.")
        names = {file.name for file in place.iterdir()} if place.is_dir() else set[str]()
        if other := sorted(name for name in names - {self.manifest, self.data} if not name.startswith(".run.")):
            raise InputError(
                f"The directory '{place}' holds other files ({other[0]}) than {self.called}. Give another name."
            )

    def read(self, directory: str | os.PathLike[str]) -> dict[str, Any]:
        """The manifest. Raises InputError: none there, another format or version, or a broken seal."""
        path = Path(directory) / self.manifest
        if not path.is_file():
            raise InputError(
                f"'{directory}' holds no {self.manifest}; expected {self.called}, complete as Assay wrote it."
            )
        try:
            found: Any = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise self.damaged(path, f"it is not readable JSON ({error})") from error
        content = cast(dict[str, Any], found) if isinstance(found, dict) else {}
        if content.get("format") != self.format:
            raise InputError(f'{path} does not say "format": "{self.format}"; expected {self.called}.')
        if content.get("version") != self.version:
            raise InputError(
                f"{path} has format version {content.get('version')!r}; expected {self.version}. Use the version of Assay that "
                "wrote it, or ask for one of this version."
            )
        if content != sealed({name: value for name, value in content.items() if name != "checksum"}):
            raise self.damaged(path, "its checksum does not fit what it says")
        return content

    def file(self, directory: str | os.PathLike[str], content: Mapping[str, Any], name: str) -> Path:
        """One of the files, which must be what the manifest lists. Raises InputError."""
        path, listed = Path(directory) / name, content.get("files")
        if not isinstance(listed, dict) or name not in listed:
            raise self.damaged(Path(directory) / self.manifest, f"it does not list {name}")
        if not path.is_file() or describe(path) != listed[name]:
            raise self.damaged(path, "it is missing, or its content is not what was written")
        return path

    def damaged(self, path: Path, why: str) -> InputError:
        """The error for what is not as it was written."""
        called = self.called[0].upper() + self.called[1:]
        return InputError(f"{called} is damaged or was changed, at {path}: {why}. Ask for it again.")


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """With "checksum": SHA-256 (hex) of the content as JSON, keys in order, without spaces."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return {**content, "checksum": hashlib.sha256(text.encode("utf-8")).hexdigest()}
