"""Read an index: ids and statistics at once, features in tiles with bounded memory.

Files are read into buffers that are used again, not mapped: mapped pages would count as resident memory. Every byte
read is hashed (XXH3, about 0.04 s a GiB) and compared with the manifest when its shard ends, so damage is reported
before an answer that used it can be returned.
"""

import os
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import xxhash
from jaxtyping import Float, Shaped
from torch import Tensor

from assay.errors import IndexMismatch, InputError
from assay.index import format as disk
from assay.index.format import DTYPES, Dtype, Manifest, Shard
from assay.index.quantize import decode

TILE_BYTES = 16 << 20  # of features over all checkpoints; two such buffers exist while a scan runs
TILE_ROWS = 8192


@dataclass(frozen=True, slots=True)
class Tile:
    """Decoded features of rows `start : start + len(features)`."""

    start: int
    features: Float[Tensor, "n K"]


@dataclass(frozen=True, slots=True)
class StoredTile:
    """Features as stored, in a buffer that is overwritten once the next tile is asked for.

    `scale` is None unless int8.
    """

    features: Shaped[Tensor, "n K"]
    scale: Float[Tensor, " n"] | None
    norm: Float[Tensor, " n"]


class StoredIndex:
    """A finished index. Immutable; reads from disk when asked."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest

    @property
    def header(self) -> dict[str, Any]:
        """What the builder recorded: model, task, compression, checkpoints, ..."""
        return dict(self.manifest.header)

    @property
    def rows(self) -> int:
        """Number of examples."""
        return self.manifest.rows

    @property
    def dim(self) -> int:
        """Number of features of an example at one checkpoint."""
        return self.manifest.dim

    @property
    def dtype(self) -> Dtype:
        """How features are stored."""
        return self.manifest.dtype

    @property
    def checkpoints(self) -> int:
        """Number of checkpoints."""
        return self.manifest.checkpoints

    @property
    def statistics(self) -> tuple[str, ...]:
        """Names that `stats` takes."""
        return self.manifest.statistics

    def __len__(self) -> int:
        return self.rows

    @cached_property
    def ids(self) -> Sequence[str]:
        """The id of each row, read and verified on first use."""
        heads = (disk.read_head(self.path, shard) for shard in self.shards(0))
        return tuple(name for head in heads for name in disk.unpack_ids(head["id_offsets"], head["ids"]))

    def stats(self, name: str) -> Float[Tensor, "C n"]:
        """The column `name` that the writer was given, for each checkpoint."""
        if name not in self.statistics:
            known = ", ".join(self.statistics) or "none"
            raise InputError(f"The index '{self.path}' has no statistic '{name}'. It has: {known}.")
        return self._column(disk.STATISTIC + name)

    def norms(self) -> Float[Tensor, "C n"]:
        """Euclidean length of each row of features as stored."""
        return self._column("norm")

    def shards(self, checkpoint: int) -> list[Shard]:
        """The files of one checkpoint in row order."""
        return [shard for shard in self.manifest.shards if shard.checkpoint == checkpoint]

    def tiles(self, checkpoint: int, rows_per_tile: int | None = None) -> Iterator[Tile]:
        """Decoded float32 features in row order, each tile a new tensor.

        Raises CorruptIndex at the end of a damaged shard: use the result only when the iteration has ended.
        """
        for start, (stored,) in self.stored_tiles(rows_per_tile, checkpoints=(checkpoint,)):
            yield Tile(start, decode(stored.features, stored.scale))

    def tile_rows(self, checkpoints: int) -> int:
        """Rows such that the tiles of all checkpoints together take about 16 MiB."""
        row_bytes = max(1, self.dim * DTYPES[self.dtype].itemsize * checkpoints)
        return max(1, min(TILE_ROWS, TILE_BYTES // row_bytes))

    def stored_tiles(
        self, rows_per_tile: int | None = None, checkpoints: Sequence[int] | None = None
    ) -> Generator[tuple[int, tuple[StoredTile, ...]]]:
        """`(start, one tile for each checkpoint)`, undecoded; the next tile is read while the caller uses this one."""
        chosen = range(self.checkpoints) if checkpoints is None else checkpoints
        rows = rows_per_tile or self.tile_rows(len(chosen))
        tiles = self._read_tiles(rows, chosen)
        with ThreadPoolExecutor(1, "assay-read") as reader:
            coming = reader.submit(next, tiles, None)
            while (tile := coming.result()) is not None:
                coming = reader.submit(next, tiles, None)
                yield tile
                del tile

    def verify(self) -> None:
        """Read every byte and compare it with the manifest. Raises CorruptIndex that names the shard."""
        for shard in self.manifest.shards:
            verify_shard(self.path, shard)

    def _read_tiles(self, rows: int, checkpoints: Sequence[int]) -> Generator[tuple[int, tuple[StoredTile, ...]]]:
        dtype = DTYPES[self.dtype]
        rows = min(rows, self.rows)
        buffers = [[torch.empty(rows, self.dim, dtype=dtype) for _ in checkpoints] for _ in range(2)]
        streams = [_Stream(self, checkpoint) for checkpoint in checkpoints]
        try:
            for turn, start in enumerate(range(0, self.rows, rows)):
                count = min(rows, self.rows - start)
                pairs = zip(streams, buffers[turn % 2], strict=True)
                yield start, tuple(stream.read(buffer[:count]) for stream, buffer in pairs)
        finally:
            for stream in streams:
                stream.close()

    def _column(self, tensor: str) -> Float[Tensor, "C n"]:
        rows = [
            torch.cat([disk.read_head(self.path, shard)[tensor] for shard in self.shards(checkpoint)])
            for checkpoint in range(self.checkpoints)
        ]
        return torch.stack(rows)


class _Stream:
    """The features of one checkpoint from the first row to the last, across shards, hashed on the way."""

    def __init__(self, index: StoredIndex, checkpoint: int) -> None:
        self._root = index.path
        self._coming = iter(index.shards(checkpoint))
        self._file: Any = None
        self._left = 0  # rows of the open shard not yet read

    def read(self, out: Shaped[Tensor, "n K"]) -> StoredTile:
        scales: list[Tensor] = []
        norms: list[Tensor] = []
        filled = 0
        while filled < len(out):
            if self._left == 0:
                self._open(next(self._coming))
            count = min(self._left, len(out) - filled)
            first = self._shard.rows - self._left
            norms.append(self._head["norm"][first : first + count])
            if "scale" in self._head:
                scales.append(self._head["scale"][first : first + count])
            self._fill(disk.as_bytes(out[filled : filled + count]))
            filled += count
            self._left -= count
            if self._left == 0:
                self._finish()
        return StoredTile(out, torch.cat(scales) if scales else None, torch.cat(norms))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, shard: Shard) -> None:
        self._shard, self._left = shard, shard.rows
        self._file = disk.open_shard(self._root, shard)
        self._head = disk.verified_head(self._file.read(shard.head_bytes), self._root, shard)
        self._digest = xxhash.xxh3_128()

    def _fill(self, memory: memoryview) -> None:
        done = 0
        while done < len(memory):
            got = self._file.readinto(memory[done:])
            if not got:
                raise disk.damaged(self._root, self._shard, "the file ends too early")
            done += got
        self._digest.update(memory)

    def _finish(self) -> None:
        self.close()
        if self._digest.hexdigest() != self._shard.features_checksum:
            raise disk.damaged(self._root, self._shard, "its features do not match their checksum")


def open_index(path: str | os.PathLike[str]) -> StoredIndex:
    """Open a finished index: the manifest is verified, and that every shard is there with its size.

    Raises InputError (no index here, or an unfinished one), IndexMismatch (another format version), CorruptIndex.
    """
    root = Path(path)
    if not (root / disk.MANIFEST).is_file():
        if (root / disk.JOURNAL).is_file():
            raise IndexMismatch(
                f"The index '{root}' is unfinished: its build was interrupted. Run the same build again; it continues."
            )
        raise InputError(f"There is no index in '{root}' (no {disk.MANIFEST}). Build one, or correct the path.")
    manifest = Manifest.load(root / disk.MANIFEST)
    for shard in manifest.shards:
        disk.open_shard(root, shard).close()
    return StoredIndex(root, manifest)


def verify_shard(root: Path, shard: Shard) -> None:
    """Read a whole shard and compare it with its checksums. Raises CorruptIndex."""
    with disk.open_shard(root, shard) as file:
        disk.verified_head(file.read(shard.head_bytes), root, shard)
        digest = xxhash.xxh3_128()
        while block := file.read(1 << 22):
            digest.update(block)
    if digest.hexdigest() != shard.features_checksum:
        raise disk.damaged(root, shard, "its features do not match their checksum")
