"""Utilities on disk, by content: a run that was killed goes on from what it had, another run starts from it.

The file `<fingerprint>.utilities` holds a header of 64 bytes and records of 32 bytes:

    16 bytes BLAKE2b of the set's bits, 8 bytes utility (float64, little-endian), 8 bytes BLAKE2b of the 24 before

so that it can be appended to at any moment: a record that a kill cut short is skipped, as its checksum does not hold.
Two runs may append at once. What was evaluated first holds; a later value of the same set is not used.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64

from assay.errors import InputError, StorageError

HEADER, RECORD = 64, 32
MAGIC = b"assay-utilities-1"
KEPT = 2**20
"""Utilities remembered without a file; later ones are computed again."""


class Cache:
    """Utilities by set. `directory` None: in memory only."""

    def __init__(self, directory: str | os.PathLike[str] | None, fingerprint: str) -> None:
        self._known: dict[bytes, float] = {}
        self._file: int | None = None
        self.found = 0
        if directory is not None:
            path = Path(directory) / f"{fingerprint[:40]}.utilities"
            self._open(path, MAGIC.ljust(HEADER - 32, b"\0") + hashlib.sha256(fingerprint.encode()).digest())

    @property
    def lasting(self) -> bool:
        """Whether it outlasts the process."""
        return self._file is not None

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, key: bytes) -> bool:
        return key in self._known

    def __getitem__(self, key: bytes) -> float:
        return self._known[key]

    def settle(self, keys: Sequence[bytes], values: Float64[np.ndarray, " m"]) -> Float64[np.ndarray, " m"]:
        """Add what is new, on disk as well; the values that hold, those that were there first. Raises StorageError."""
        new: list[bytes] = []
        if self._file is not None or len(self._known) < KEPT:
            for key, value in zip(keys, values.tolist(), strict=True):
                if key not in self._known:
                    self._known[key] = value
                    new.append(_record(key, value))
        if self._file is not None and new:
            try:
                os.write(self._file, b"".join(new))  # one call: appended as a whole, or cut short by a kill
            except OSError as error:
                raise StorageError(
                    f"The cache of utilities cannot be written ({error}). Make room, or leave it out."
                ) from error
        return np.array([self._known.get(key, value) for key, value in zip(keys, values.tolist(), strict=True)])

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self, path: Path, header: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes() if path.exists() else b""
            if content and content[:HEADER] != header[: len(content)]:
                raise InputError(f"{path} is not a cache of these utilities; name another directory for the cache.")
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            if len(content) < HEADER:
                os.write(self._file, header[len(content) :])
            elif rest := (len(content) - HEADER) % RECORD:
                os.write(self._file, b"\0" * (RECORD - rest))
        except OSError as error:
            raise StorageError(f"The cache of utilities cannot be kept at {path.parent} ({error}).") from error
        for start in range(HEADER, len(content) - RECORD + 1, RECORD):
            record = content[start : start + RECORD]
            if record[24:] == _sum(record[:24]):
                self._known.setdefault(record[:16], float(np.frombuffer(record[16:24], "<f8")[0]))
        self.found = len(self._known)


def key_of(rows: Bool[np.ndarray, " n"]) -> bytes:
    """Of a set of rows."""
    return hashlib.blake2b(np.packbits(rows).tobytes(), digest_size=16).digest()


def _record(key: bytes, value: float) -> bytes:
    body = key + np.float64(value).astype("<f8").tobytes()
    return body + _sum(body)


def _sum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=8).digest()
