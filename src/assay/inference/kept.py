"""Answers on disk, by what was asked: a run that ended early goes on from them.

One SQLite file a server and model. A row: SHA-256 of the request, each counted token's log-probability (float64), the lead,
and whether each token was the likeliest (a byte each, or null); never a text, never a key. Each answer is committed when it
comes, so that a kill costs what was under way. A row `probe` holds what the model said of a fixed sentence: where that changes,
another model answers, and the old answers go. The table's name has the format's version; tables of other versions are removed,
so that their answers are asked again.
"""

import hashlib
import json
import os
import sqlite3
from pathlib import Path

import numpy as np

from assay.errors import StorageError
from assay.inference.likelihood import Likelihood, Request
from assay.inference.server import Server

VERSION = 3
TABLE, OLD = f"answers_{VERSION}", ("answers", "likelihoods")
SAME = 0.02
"""Nats a token by which one model's answers to the probe differ from time to time."""
NUMBER = np.dtype("<f8")
"""How a log-probability lies in the file."""
_PROBE = b"probe"


class Kept:
    """Likelihoods by request; closed by `close`."""

    def __init__(self, server: Server) -> None:
        self.path = folder_of(server) / f"{server.fingerprint()[:32]}.sqlite"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(self.path, timeout=30, isolation_level=None)
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=NORMAL")
            for table in OLD:
                self._base.execute(f"DROP TABLE IF EXISTS {table}")
            self._base.execute(
                f"CREATE TABLE IF NOT EXISTS {TABLE} "
                "(key BLOB PRIMARY KEY, logs BLOB NOT NULL, lead INTEGER NOT NULL, first BLOB) WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as error:
            raise self._error(error) from error

    def same_model(self, probe: Likelihood) -> bool:
        """Whether the model is the one that gave the kept answers, and its server tells as much; if not, they are removed.
        Raises StorageError.
        """
        known = self._get(_PROBE)
        same = known is None or (
            known.count == probe.count
            and abs(known.mean - probe.mean) <= SAME
            and (known.first is None) == (probe.first is None)
        )
        try:
            if not same:
                self._base.execute(f"DELETE FROM {TABLE}")
            if known is None or not same:
                self._put(_PROBE, probe)
        except sqlite3.Error as error:
            raise self._error(error) from error
        return same

    def get(self, request: Request) -> Likelihood | None:
        """What was answered, if it was."""
        return self._get(_key(request))

    def put(self, request: Request, answer: Likelihood) -> None:
        """Keep an answer. Raises StorageError."""
        try:
            self._put(_key(request), answer)
        except sqlite3.Error as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def _get(self, key: bytes) -> Likelihood | None:
        try:
            row = self._base.execute(f"SELECT logs, lead, first FROM {TABLE} WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise self._error(error) from error
        if row is None:
            return None
        first = None if row[2] is None else tuple(byte == 1 for byte in row[2])
        return Likelihood(tuple(np.frombuffer(row[0], NUMBER).tolist()), int(row[1]), first)

    def _put(self, key: bytes, answer: Likelihood) -> None:
        first = None if answer.first is None else bytes(answer.first)
        row = (key, np.array(answer.values, NUMBER).tobytes(), answer.lead, first)
        self._base.execute(f"INSERT OR REPLACE INTO {TABLE} VALUES (?, ?, ?, ?)", row)

    def _error(self, error: Exception) -> StorageError:
        return StorageError(
            f"Answers cannot be kept in {self.path} ({error}). Make room, remove the file if it is damaged, or name another "
            "directory (--answers DIR)."
        )


def folder_of(server: Server) -> Path:
    """Where its answers lie."""
    if server.answers is not None:
        return Path(server.answers)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "assay" / "answers"


def _key(request: Request) -> bytes:
    return hashlib.sha256(json.dumps([VERSION, request.prompt, request.counted]).encode()).digest()
