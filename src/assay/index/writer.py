"""Build an index so that a kill at any moment costs at most the rows of one shard.

Rows go into shards of a fixed number of rows. A full shard is written under a temporary name, synced, renamed, and
then noted with its checksums in `journal.jsonl`; the manifest is written last and the journal removed. After a kill
the journal says which shards are complete; each is read again and verified, everything else is deleted, and the
caller continues at `done(checkpoint)`. Shard boundaries depend on row numbers alone, so a resumed build equals an
undisturbed one bit for bit.

Appending writes new shards beside the old ones and replaces the manifest atomically: until then, and after a kill,
the old index stays valid.

Memory: the rows of one unfinished shard for each checkpoint that is being written, and the ids of all rows.
"""

import errno
import fcntl
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import torch
from jaxtyping import Float
from torch import Tensor

from assay.errors import CorruptIndex, DataError, IndexMismatch, InputError, NonFiniteError, StorageError
from assay.index import format as disk
from assay.index.format import DTYPES, Dtype, Manifest, Shard
from assay.index.quantize import encode, norms
from assay.index.reader import open_index, verify_shard

_SHARD_BYTES = 64 << 20
_SHARD_ROWS = 4096


def default_shard_rows(dim: int, dtype: Dtype) -> int:
    """At most 4,096 rows and 64 MiB."""
    return max(1, min(_SHARD_ROWS, _SHARD_BYTES // (max(1, dim) * DTYPES[dtype].itemsize)))


@dataclass(slots=True)
class _Pending:
    """Rows that wait for their shard to fill."""

    ids: list[str] = field(default_factory=list[str])
    parts: list[dict[str, Tensor]] = field(default_factory=list[dict[str, Tensor]])


class Writer:
    """Writes one index directory; holds its lock until `close`. Use it in a `with` statement.

        with Writer("index/", header, dtype="int8", dim=1024) as writer:
            for ids, features, losses in batches(start=writer.done(0)):
                writer.add(0, ids, features, {"loss": losses})
            writer.finish()

    Opening the directory of an unfinished build resumes it; of a finished index with the same header, `complete` is
    True and there is nothing to do. Raises IndexMismatch (another header, dtype, dim, ...: says which, old and new),
    StorageError (locked by another process, cannot be written).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        header: Mapping[str, Any],
        *,
        dtype: Dtype,
        dim: int,
        checkpoints: int = 1,
        shard_rows: int | None = None,
    ) -> None:
        rows = shard_rows or default_shard_rows(dim, dtype)
        wanted = Manifest(disk.plain(header), 0, dim, dtype, checkpoints, rows, (), ())
        self._open(Path(path), wanted, base=None)

    @classmethod
    def append(
        cls,
        path: str | os.PathLike[str],
        header: Mapping[str, Any],
        *,
        checkpoints: int | None = None,
        may_change: Collection[str] = (),
    ) -> Self:
        """Add to a finished index: rows, or, when `checkpoints` is larger than before, checkpoints for its rows.

        `header` is the header of the index afterwards; only its keys in `may_change` may differ from now. If it does
        not differ at all the writer is `complete`: that append has been done.
        """
        base = open_index(path).manifest
        count = base.checkpoints if checkpoints is None else checkpoints
        if count < base.checkpoints:
            raise InputError(
                f"The index '{path}' has {base.checkpoints} checkpoints; {count} were asked for. "
                "An append can only add: give at least as many."
            )
        wanted = replace(base, header=disk.plain(header), checkpoints=count)
        fixed = {key: base.header.get(key) for key in may_change}
        _refuse_difference(Path(path), dict(base.header) | fixed, dict(wanted.header) | fixed)
        writer = cls.__new__(cls)
        writer._open(Path(path), wanted, base=base)
        return writer

    # ------------------------------------------------------------ what the caller uses

    @property
    def dim(self) -> int:
        """Features of an example at one checkpoint."""
        return self._wanted.dim

    def done(self, checkpoint: int) -> int:
        """Rows of `checkpoint` that are safely on disk; go on with the row of this number."""
        return self._done[checkpoint]

    def add(
        self,
        checkpoint: int,
        ids: Sequence[str],
        features: Float[Tensor, "n K"],
        stats: Mapping[str, Float[Tensor, " n"]] | None = None,
    ) -> None:
        """Take the next rows of `checkpoint`. Rows, and their ids, are the same and in the same order for each one.

        `stats` are float32 columns with the same names in every call. Raises NonFiniteError (names the example),
        DataError (duplicate or differing ids), StorageError (disk full; says what is kept).
        """
        columns = dict(stats or {})
        self._check(checkpoint, ids, features, columns)
        stored, scale = encode(features, self._wanted.dtype, ids)
        part = {disk.STATISTIC + name: column.detach().cpu().float() for name, column in columns.items()}
        part |= {"features": stored} | ({} if scale is None else {"scale": scale})
        self._note_ids(checkpoint, ids)
        taken = 0
        while taken < len(ids):
            pending = self._pending[checkpoint]
            room = self._stop(self._done[checkpoint]) - self._done[checkpoint] - len(pending.ids)
            pending.ids.extend(ids[taken : taken + room])
            pending.parts.append({name: column[taken : taken + room] for name, column in part.items()})
            taken += room
            if taken <= len(ids):
                self._flush(checkpoint)

    def end(self, checkpoint: int) -> None:
        """All rows of `checkpoint` have been added: write its last, shorter shard now."""
        if self._pending[checkpoint].ids:
            self._flush(checkpoint)

    def finish(self) -> None:
        """Write what is pending, then the manifest: the index is complete."""
        if self.complete:
            return
        received = [self._received(checkpoint) for checkpoint in range(self._wanted.checkpoints)]
        if len(set(received)) != 1:
            raise ValueError(f"Checkpoints have different numbers of rows: {received}; add the same rows to each.")
        if received[0] == 0:
            raise DataError("No examples were given: an index needs at least one row.")
        for checkpoint in range(self._wanted.checkpoints):
            self.end(checkpoint)
        shards = sorted((*self._base_shards, *self._new), key=lambda shard: (shard.checkpoint, shard.start))
        names = self._statistics or ()
        manifest = replace(self._wanted, rows=self._done[0], statistics=names, shards=tuple(shards))
        self._write(self._path / disk.MANIFEST, [manifest.dumps().encode()])
        (self._path / disk.JOURNAL).unlink()
        self.complete = True

    def close(self) -> None:
        """Release the lock; what is on disk stays and can be resumed."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------ opening and resuming

    def _open(self, path: Path, wanted: Manifest, base: Manifest | None) -> None:
        self._path, self._wanted, self._lock = path, wanted, -1
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(path)
            self._resume(base)
        except OSError as error:
            self.close()
            raise self._storage_error(error) from error
        except BaseException:
            self.close()
            raise

    def _resume(self, base: Manifest | None) -> None:
        finished = self._path / disk.MANIFEST
        if base is not None:
            base = Manifest.load(finished)  # again, now that it is locked
        elif finished.exists():
            base = Manifest.load(finished)
            _refuse_difference(self._path, _identity(base), _identity(self._wanted))
        appends = base is not None and _identity(base) != _identity(self._wanted)
        self.complete = base is not None and not appends
        self._base_rows = base.rows if base else 0
        self._base_checkpoints = base.checkpoints if base else 0
        self._base_shards = base.shards if base else ()
        self._base_stops = {s.start: s.stop for s in self._base_shards if s.checkpoint == 0}
        self._new_rows = self._wanted.checkpoints == self._base_checkpoints or base is None
        self._statistics: tuple[str, ...] | None = base.statistics if base else None
        self._ids_of: dict[int, str] = {}  # checksum of the ids of the shard that starts at this row
        self._known: set[str] = set()
        self._pending = [_Pending() for _ in range(self._wanted.checkpoints)]
        self._new: list[Shard] = []
        self._ended: set[int] = set()  # checkpoints whose last, shorter shard is written
        self._done = [self._base_rows if c < self._base_checkpoints else 0 for c in range(self._wanted.checkpoints)]
        for shard in self._base_shards if appends else ():
            if shard.checkpoint == 0:
                self._remember_ids(shard.start, disk.read_head(self._path, shard))
        if base is not None:
            _remove_spent_journal(self._path / disk.JOURNAL, base)
        if not self.complete:
            self._restore(base)
            self._remove_strays()

    def _restore(self, base: Manifest | None) -> None:
        """Take over what the journal lists, and start the journal again without its torn or unusable lines."""
        journal = self._path / disk.JOURNAL
        plan = _identity(self._wanted) | {"base": disk.checksum([base.dumps().encode()]) if base else None}
        plan = {"format": disk.FORMAT, "version": disk.VERSION, **plan}
        lines = _journal_lines(journal)
        if lines:
            remedy = f"or delete '{journal}' to abandon the unfinished work"
            _refuse_difference(self._path, cast(dict[str, Any], lines[0]), plan, remedy)
        elif base is None and (strays := _strangers(self._path)):
            raise StorageError(
                f"The directory '{self._path}' is not empty and not an index (it contains '{strays[0]}'). "
                "Give the name of a new or empty directory."
            )
        (self._path / disk.SHARDS).mkdir(exist_ok=True)
        for shard in filter(None, map(disk.shard_from, lines[1:])):
            self._take_over(shard)
        entries = [plan, *(asdict(shard) for shard in self._new)]
        self._write(journal, [disk.canonical(entry) + b"\n" for entry in entries])

    def _take_over(self, shard: Shard) -> None:
        """Keep a shard of the killed build if it is whole and continues the rows so far."""
        if self._done[shard.checkpoint] != shard.start:
            return
        try:
            verify_shard(self._path, shard)
        except CorruptIndex:
            return
        head = disk.read_head(self._path, shard)
        if shard.start not in self._ids_of:
            self._remember_ids(shard.start, head)
        prefix = disk.STATISTIC
        self._statistics = tuple(sorted(n.removeprefix(prefix) for n in head if n.startswith(prefix)))
        self._completed(shard)

    def _remember_ids(self, start: int, head: Mapping[str, Tensor]) -> None:
        ids = disk.unpack_ids(head["id_offsets"], head["ids"])
        self._known.update(ids)
        self._ids_of[start] = _ids_checksum(ids)

    def _remove_strays(self) -> None:
        """Temporary files and shards that neither the manifest nor the journal names."""
        kept = {shard.file for shard in (*self._base_shards, *self._new)}
        for file in (self._path / disk.SHARDS).iterdir():
            if f"{disk.SHARDS}/{file.name}" not in kept:
                file.unlink()
        for file in self._path.glob("*.json*.tmp"):
            file.unlink()

    # ------------------------------------------------------------ adding

    def _check(self, checkpoint: int, ids: Sequence[str], features: Tensor, stats: Mapping[str, Tensor]) -> None:
        if self.complete:
            raise InputError(
                f"The index '{self._path}' is complete for this header; nothing can be added. To append new data, "
                "give a header that records them."
            )
        if tuple(features.shape) != (len(ids), self._wanted.dim):
            raise ValueError(f"Features {tuple(features.shape)} for {len(ids)} ids of dimension {self._wanted.dim}.")
        if any(column.shape != (len(ids),) for column in stats.values()):
            raise ValueError(f"A statistic needs one number a row: {[tuple(c.shape) for c in stats.values()]}.")
        for name, column in stats.items():
            bad = (~column.isfinite()).nonzero()
            if len(bad):
                raise NonFiniteError(f"The {name} of example '{ids[int(bad[0])]}' is not finite.")
        names = tuple(sorted(stats))
        if self._statistics is not None and names != self._statistics:
            raise ValueError(f"Statistics {names}; this index has {self._statistics}.")
        self._statistics = names
        if not self._new_rows and self._received(checkpoint) + len(ids) > self._base_rows:
            raise DataError(f"Row {self._base_rows} given for a new checkpoint of {self._base_rows} rows.")
        if ids and checkpoint in self._ended:
            raise DataError(
                f"Checkpoint {checkpoint} of '{self._path}' has ended after {self._done[checkpoint]} rows; more were "
                "given. Finish this build with the same data, then append the new rows."
            )

    def _note_ids(self, checkpoint: int, ids: Sequence[str]) -> None:
        """Refuse an id that an earlier row has; rows that another checkpoint brought are compared in `_flush`."""
        frontier = max(self._base_rows, *map(self._received, range(self._wanted.checkpoints)))
        for name in ids[max(0, frontier - self._received(checkpoint)) :]:
            if name in self._known:
                raise DataError(f"The id '{name}' occurs twice in the index '{self._path}'; ids must be unique.")
            self._known.add(name)

    def _received(self, checkpoint: int) -> int:
        return self._done[checkpoint] + len(self._pending[checkpoint].ids)

    def _stop(self, row: int) -> int:
        """End of the shard that starts at `row`."""
        return self._base_stops.get(row, row + self._wanted.shard_rows)

    def _flush(self, checkpoint: int) -> None:
        """Write the pending rows as one shard and note it in the journal."""
        pending, start = self._pending[checkpoint], self._done[checkpoint]
        names = _ids_checksum(pending.ids)
        if self._ids_of.setdefault(start, names) != names:
            raise DataError(
                f"Checkpoint {checkpoint} has other ids than an earlier checkpoint in rows {start} to "
                f"{start + len(pending.ids) - 1}. Give the same examples in the same order for each checkpoint."
            )
        columns = {name: torch.cat([part[name] for part in pending.parts]) for name in pending.parts[0]}
        features = columns.pop("features")
        columns["norm"] = norms(features, columns.get("scale"))
        parts, head = disk.layout(pending.ids, features, columns)
        shard = Shard(
            disk.shard_name(checkpoint, start),
            checkpoint,
            start,
            len(pending.ids),
            head + len(parts[-1]),
            head,
            disk.checksum(parts[:-1]),
            disk.checksum(parts[-1:]),
        )
        self._write(self._path / shard.file, parts)
        self._note(shard)
        self._completed(shard)
        self._pending[checkpoint] = _Pending()

    def _completed(self, shard: Shard) -> None:
        self._new.append(shard)
        self._done[shard.checkpoint] = shard.stop
        if shard.stop < self._stop(shard.start):
            self._ended.add(shard.checkpoint)

    def _note(self, shard: Shard) -> None:
        try:
            with open(self._path / disk.JOURNAL, "ab") as journal:
                journal.write(disk.canonical(asdict(shard)) + b"\n")
                journal.flush()
                os.fsync(journal.fileno())
        except OSError as error:
            raise self._storage_error(error) from error

    def _write(self, path: Path, parts: Sequence[bytes | memoryview]) -> None:
        try:
            disk.write(path, parts)
        except OSError as error:
            raise self._storage_error(error) from error

    def _storage_error(self, error: OSError) -> StorageError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        kept = getattr(self, "_done", [0])
        return StorageError(
            f"Could not write the index '{self._path}': {'the disk is full' if full else error.strerror or error}. "
            f"Complete and kept: {', '.join(f'{rows} rows of checkpoint {c}' for c, rows in enumerate(kept))}. "
            f"{'Free space' if full else 'Make the directory writable'} and run the same command again to continue."
        )


def _identity(manifest: Manifest) -> dict[str, Any]:
    """What two writers of one index must agree on."""
    return {
        "header": dict(manifest.header),
        "dtype": manifest.dtype,
        "dim": manifest.dim,
        "checkpoints": manifest.checkpoints,
        "shard_rows": manifest.shard_rows,
    }


def _locked(path: Path) -> int:
    """An exclusive lock on the directory itself: it leaves no file and ends with the process, however it ends."""
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise StorageError(
            f"The index '{path}' is being written by another process. Wait until it ends, or give another directory."
        ) from error
    return handle


def _journal_lines(path: Path) -> list[object]:
    """The journal's entries up to the first line that is not whole."""
    lines: list[object] = []
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def _remove_spent_journal(journal: Path, finished: Manifest) -> None:
    """Remove what a kill left between the last two steps of `finish`; another append's journal stays."""
    for plan in _journal_lines(journal)[:1]:
        if cast(dict[str, Any], plan).items() >= _identity(finished).items():
            journal.unlink()


def _strangers(path: Path) -> list[str]:
    """Files of a directory that no interrupted start of a build can have left."""
    known = {disk.SHARDS, disk.JOURNAL, disk.JOURNAL + ".tmp"}
    return sorted(entry.name for entry in path.iterdir() if entry.name not in known)


def _ids_checksum(ids: Sequence[str]) -> str:
    return disk.checksum(disk.as_bytes(part) for part in disk.pack_ids(ids))


def _refuse_difference(
    path: Path, old: Mapping[str, Any], new: Mapping[str, Any], remedy: str = "or the same settings as before"
) -> None:
    found = first_difference(old, new)
    if found:
        key, before, now = found
        raise IndexMismatch(
            f"The index '{path}' was made with {key} = {before!r}; now {key} = {now!r}. "
            f"Give another directory, {remedy}."
        )


def first_difference(old: object, new: object, key: str = "") -> tuple[str, object, object] | None:
    """The first differing entry of two nested headers as (dotted key, old, new); None when equal."""
    difference = (key, old, new)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        before, now = cast(Mapping[str, object], old), cast(Mapping[str, object], new)
        for name in sorted({*before, *now}):
            dotted = f"{key}.{name}" if key else name
            found = first_difference(before.get(name), now.get(name), dotted)
            if found:
                return found
        return None
    return None if old == new else difference
