"""The index directory on disk: names, the shard layout, the manifest and checksums (`docs/index-format.md`).

    index/
      manifest.json                      written last: its presence means that the index is complete
      shards/c000-r000000000.safetensors checkpoint 0, rows from 0; never changed once written
      journal.jsonl                      only while a build or an append is unfinished

A shard is an ordinary safetensors file whose tensors stand in a fixed order, the features last. So a scan reads a
short *head* (ids, scales, norms, statistics) and then streams the features, and each of the two parts has its own
checksum (XXH3, 128 bits): every byte that is read is hashed before an answer that used it is returned.
The checksum guards against damage, not against an adversary.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

import torch
import xxhash
from jaxtyping import Shaped
from torch import Tensor

from assay.errors import CorruptIndex, IndexMismatch

FORMAT = "assay-index"
VERSION = 1
MANIFEST = "manifest.json"
JOURNAL = "journal.jsonl"
SHARDS = "shards"
ALIGN = 64  # features start at a multiple of this many bytes from the file's start
STATISTIC = "statistic."  # prefix of the caller's columns inside a shard

Dtype = Literal["float32", "bfloat16", "int8"]
DTYPES: dict[Dtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}

_SAFETENSORS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int8: "I8", torch.uint8: "U8", torch.int64: "I64"}
_TORCH = {name: dtype for dtype, name in _SAFETENSORS.items()}


@dataclass(frozen=True, slots=True)
class Shard:
    """One entry of the manifest: rows `start : start + rows` of one checkpoint."""

    file: str
    checkpoint: int
    start: int
    rows: int
    bytes: int
    head_bytes: int
    head_checksum: str
    features_checksum: str

    @property
    def stop(self) -> int:
        return self.start + self.rows


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a finished index is. It holds no time of day and no duration: equal builds have equal manifests."""

    header: Mapping[str, Any]  # the caller's: model, task, compression, blocks, measurement, checkpoints, ...
    rows: int
    dim: int
    dtype: Dtype
    checkpoints: int
    shard_rows: int
    statistics: tuple[str, ...]
    shards: tuple[Shard, ...]

    def dumps(self) -> str:
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return json.dumps(content | {"checksum": checksum([canonical(content)])}, indent=1, sort_keys=True) + "\n"

    @staticmethod
    def load(path: Path) -> "Manifest":
        """Read and check `path`. Raises IndexMismatch for another version, CorruptIndex for damaged content."""
        try:
            content = json.loads(path.read_bytes())
            found = (content.pop("format"), content.pop("version"))
            stated = content.pop("checksum")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptIndex(f"'{path}' is damaged: it is not an index manifest. Build the index again.") from error
        if found != (FORMAT, VERSION):
            raise IndexMismatch(
                f"'{path}' has format {found[0]!r} version {found[1]!r}; this version of assay reads "
                f"{FORMAT!r} version {VERSION}. Update assay, or build the index again."
            )
        if checksum([canonical({"format": FORMAT, "version": VERSION, **content})]) != stated:
            raise CorruptIndex(f"'{path}' is damaged: its checksum does not match. Build the index again.")
        shards = tuple(Shard(**entry) for entry in content.pop("shards"))
        return Manifest(**content | {"shards": shards, "statistics": tuple(content["statistics"])})


def shard_name(checkpoint: int, start: int) -> str:
    """The file, relative to the index, of the rows of `checkpoint` from `start`."""
    return f"{SHARDS}/c{checkpoint:03d}-r{start:09d}.safetensors"


def canonical(content: object) -> bytes:
    """JSON with one spelling for equal content."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def plain(header: Mapping[str, Any]) -> dict[str, Any]:
    """`header` as it reads back from JSON (tuples become lists), so that it can be compared with a stored one."""
    return cast(dict[str, Any], json.loads(canonical(dict(header))))


def checksum(parts: Iterable[bytes | memoryview]) -> str:
    """XXH3, 128 bits, of the parts one after the other."""
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def as_bytes(tensor: Shaped[Tensor, "..."]) -> memoryview:
    """The tensor's memory, row-major, without a copy when it is contiguous."""
    flat: Any = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(flat)


# ---------------------------------------------------------------- shards


def pack_ids(ids: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Offsets int64 [n + 1] and the UTF-8 text of all ids, one after the other."""
    texts = [name.encode() for name in ids]
    offsets = torch.zeros(len(texts) + 1, dtype=torch.int64)
    offsets[1:] = torch.tensor([len(text) for text in texts], dtype=torch.int64).cumsum(0)
    return offsets, torch.frombuffer(bytearray(b"".join(texts) or b"\0"), dtype=torch.uint8)


def unpack_ids(offsets: Tensor, text: Tensor) -> list[str]:
    """The inverse of `pack_ids`."""
    blob, ends = bytes(as_bytes(text)), cast(list[int], offsets.tolist())
    return [blob[a:b].decode() for a, b in pairwise(ends)]


def layout(ids: Sequence[str], features: Tensor, columns: Mapping[str, Tensor]) -> tuple[list[memoryview | bytes], int]:
    """The parts of a shard's file in order, the last being the features, and the bytes before the features.

    Written here rather than by the safetensors library because the order matters: features last, at a multiple
    of 64 bytes, and always the same bytes for the same content.
    """
    offsets, text = pack_ids(ids)
    tensors = {"id_offsets": offsets} | {name: columns[name].float() for name in sorted(columns)}
    before = sum(t.numel() * t.element_size() for t in tensors.values()) + text.numel()
    tensors["ids"] = torch.nn.functional.pad(text, (0, -before % ALIGN))
    tensors["features"] = features
    entries: dict[str, Any] = {}
    position = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _SAFETENSORS[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, position + size],
        }
        position += size
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-(8 + len(header)) % ALIGN)
    parts = [len(header).to_bytes(8, "little"), header, *(as_bytes(tensor) for tensor in tensors.values())]
    return parts, sum(len(part) for part in parts[:-1])


def parse_head(head: bytes) -> dict[str, Tensor]:
    """The tensors before the features, from a head whose checksum has been verified."""
    size = int.from_bytes(head[:8], "little")
    data = memoryview(bytearray(head[8 + size :]))
    tensors: dict[str, Tensor] = {}
    for name, entry in json.loads(head[8 : 8 + size]).items():
        if name != "features":
            first, last = entry["data_offsets"]
            tensors[name] = torch.frombuffer(data[first:last], dtype=_TORCH[entry["dtype"]]).view(entry["shape"])
    return tensors


def read_head(root: Path, shard: Shard) -> dict[str, Tensor]:
    """Read and verify a shard's head: `id_offsets`, `ids`, `norm`, `scale` (int8 only), `statistic.*`."""
    with open_shard(root, shard) as file:
        return verified_head(file.read(shard.head_bytes), root, shard)


def verified_head(head: bytes, root: Path, shard: Shard) -> dict[str, Tensor]:
    """The tensors of `head`. Raises CorruptIndex."""
    if checksum([head]) != shard.head_checksum:
        raise damaged(root, shard, "its ids or statistics do not match their checksum")
    return parse_head(head)


def open_shard(root: Path, shard: Shard) -> Any:
    """An unbuffered file, of the size that the manifest states."""
    path = root / shard.file
    try:
        size = path.stat().st_size
    except OSError as error:
        raise damaged(root, shard, "the file is missing") from error
    if size != shard.bytes:
        raise damaged(root, shard, f"the file has {size} bytes where {shard.bytes} were written")
    return open(path, "rb", buffering=0)


def damaged(root: Path, shard: Shard, what: str) -> CorruptIndex:
    """The error that names a damaged shard."""
    return CorruptIndex(
        f"Shard '{root / shard.file}' (checkpoint {shard.checkpoint}, rows {shard.start} to {shard.stop - 1}) is "
        f"damaged: {what}. Restore this file from a copy, or build the index again."
    )


# ---------------------------------------------------------------- writing


def write(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """All of `parts` or nothing under the name `path`, on disk when this returns. Raises OSError."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames in `path` survive a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def shard_from(entry: object) -> Shard | None:
    """A journal line as a shard, or None when it is not one (a line cut short by a kill)."""
    names = {field.name for field in fields(Shard)}
    if not isinstance(entry, dict) or set(cast(dict[str, Any], entry)) != names:
        return None
    return Shard(**cast(dict[str, Any], entry))
