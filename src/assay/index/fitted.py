"""Compressions that depend on the training data: what was found at each checkpoint is kept beside the shards.

    compression-c000.safetensors    the tensors of checkpoint 0; one file a checkpoint

The header of the manifest says of each what it was fitted to and the checksum of its tensors, so a build that resumes, an
append and every query use the matrices of the first build or are refused. What queries do not need (Adam's moments) is
not kept: only its checksum is, so that other moments are refused.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from safetensors import torch as storage
from torch import Tensor

from assay.errors import CorruptIndex
from assay.gradients.sketch import Compression, Evidence, Fittable
from assay.index import format as disk


def file_name(checkpoint: int) -> str:
    """Relative to the index."""
    return f"compression-c{checkpoint:03d}.safetensors"


def fitted(root: Path, compression: Compression, checkpoint: int, evidence: Evidence) -> Compression:
    """The compression of a checkpoint: as it is, as an earlier build in `root` kept it, or fitted now."""
    if not isinstance(compression, Fittable):
        return compression
    noted = _noted(root, checkpoint)
    if noted is not None and compression.kept and (root / file_name(checkpoint)).is_file():
        return _restored(root, compression, checkpoint, noted)
    return compression.fit(evidence)


def kept(root: Path, compression: Compression, checkpoint: int) -> Compression:
    """The compression of a checkpoint of a finished index, as queries need it. Raises CorruptIndex."""
    if not isinstance(compression, Fittable):
        return compression
    noted = _noted(root, checkpoint)
    if compression.kept and noted is not None:
        compression = _restored(root, compression, checkpoint, noted)
    return compression.for_queries()


def note(compression: Compression) -> dict[str, str] | None:
    """What the header says of a fitted compression; None for one that depends on no data."""
    if not isinstance(compression, Fittable):
        return None
    return {"of": compression.of, "checksum": _checksum(compression.found())}


def keep(root: Path, compression: Compression, checkpoint: int) -> None:
    """Write the tensors, whole or not at all, unless they are there."""
    path = root / file_name(checkpoint)
    if isinstance(compression, Fittable) and compression.kept and not path.exists():
        disk.write(path, _serialised(compression.found()))


def _noted(root: Path, checkpoint: int) -> dict[str, str] | None:
    """What the manifest, or the journal of an unfinished build, says of a checkpoint's compression."""
    header: Mapping[str, Any] = {}
    if (root / disk.MANIFEST).is_file():
        header = disk.Manifest.load(root / disk.MANIFEST).header
    elif (root / disk.JOURNAL).is_file():
        first = (root / disk.JOURNAL).read_bytes().split(b"\n")[0]
        try:
            header = json.loads(first)["header"]
        except (ValueError, KeyError, TypeError):
            header = {}
    notes: list[dict[str, str]] = header.get("fitted") or []
    return notes[checkpoint] if checkpoint < len(notes) else None


def _restored(root: Path, compression: Fittable, checkpoint: int, noted: Mapping[str, str]) -> Fittable:
    path = root / file_name(checkpoint)
    try:
        with cast(Any, safe_open)(path, "pt") as opened:
            tensors: dict[str, Tensor] = {name: opened.get_tensor(name) for name in list(opened.keys())}
    except (OSError, SafetensorError) as error:
        raise CorruptIndex(f"'{path}' cannot be read: {error}. Restore it, or build the index again.") from error
    if _checksum(tensors) != noted["checksum"]:
        raise CorruptIndex(f"'{path}' is damaged: its checksum does not match. Restore it, or build the index again.")
    return replace(compression, tensors=tensors, of=noted["of"])


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    parts: list[bytes | memoryview] = []
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        parts += [f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode(), disk.as_bytes(tensor)]
    return disk.checksum(parts)


def _serialised(tensors: Mapping[str, Tensor]) -> list[bytes | memoryview]:
    """A safetensors file, always the same bytes for the same content."""
    whole = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    return [cast(Any, storage).save(whole)]
