"""Build a gradient index: features of every training example at every checkpoint, written as they are captured."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assay.compress import Compression, Factored
from assay.compress.elementwise import Elementwise
from assay.errors import DataError, IndexMismatch, InputError
from assay.examples import Examples
from assay.gradients.blocks import Layout, lay_out
from assay.gradients.features import OnNonfinite, feature_tiles, layout_for, window_rows
from assay.gradients.sketch import Evidence, Fittable
from assay.index import fitted as kept
from assay.index.format import DTYPES, MANIFEST, Dtype
from assay.index.reader import StoredIndex, open_index
from assay.index.texts import write_texts
from assay.index.writer import Writer
from assay.models import Checkpoint, Model
from assay.tasks import Measurement

PROBE = Factored(seed=0, rank=4)
"""Compression by which a layout is verified."""


@dataclass(frozen=True)
class Contents:
    """What an index holds: of which gradients, how compressed, how stored.

    `origin` says how to load the model again (JSON values); `miss` also stores TRAK's residual of each example.
    """

    compression: Compression
    measurement: Measurement
    dtype: Dtype = "float32"
    miss: bool = False
    on_nonfinite: OnNonfinite = "raise"
    origin: Mapping[str, Any] | None = None


def build_index(model: Model, train: Examples, path: str | os.PathLike[str], contents: Contents) -> StoredIndex:
    """Build, or resume, the index at `path`; does nothing if it is complete.

    Raises IndexMismatch if another model, task, data or setting is there; DataError, NonFiniteError.
    """
    model.task.check(train)
    if not len(train):
        raise DataError("There are no examples; an index needs at least one.")
    layout = lay_out(model)
    header = header_of(model, contents) | _capture_facts(layout) | {"data": [train.fingerprint()]}
    if (Path(path) / MANIFEST).is_file():
        there = open_index(path)
        refuse_other(there, header)
        header["origin"] = there.header["origin"]  # where data and model lay then is no difference
        header["model"] = there.header["model"]
    stages = model.stages()
    compressions = [prepare(Path(path), model, stage, number, train, contents) for number, stage in enumerate(stages)]
    header |= _fitted_facts(compressions)
    width = compressions[0].bind(layout.blocks, model.device, _dtype(model)).width
    rows = _shard_rows(width, contents.dtype)
    with Writer(path, header, dtype=contents.dtype, dim=width, checkpoints=len(stages), shard_rows=rows) as writer:
        if not writer.complete:
            for number, (stage, compression) in enumerate(zip(stages, compressions, strict=True)):
                kept.keep(Path(path), compression, number)
                _add(writer, model.at(stage), number, compression, train, contents)
            write_texts(Path(path), train)
            writer.finish()
    return open_index(path)


def append_rows(model: Model, train: Examples, path: str | os.PathLike[str], contents: Contents) -> StoredIndex:
    """Add new examples to a finished index of the same model and settings; nothing if they are already its last."""
    index = open_index(path)
    model.task.check(train)
    layout = lay_out(model)
    refuse_other(index, header_of(model, contents) | _capture_facts(layout))
    data: list[str] = list(index.header["data"])
    if data[-1] == train.fingerprint():
        return index
    contents = replace(contents, dtype=index.dtype)
    origin = {
        **index.header["origin"],
        "train": f"{index.header['origin'].get('train', index.path.name)}, {train.origin}",
    }
    stages = model.stages()
    compressions = [prepare(index.path, model, stage, number, train, contents) for number, stage in enumerate(stages)]
    added = {"data": [*data, train.fingerprint()], "origin": origin} | _fitted_facts(compressions)
    with Writer.append(path, dict(index.header) | added, may_change={"data", "origin"}) as writer:
        for number, (stage, compression) in enumerate(zip(stages, compressions, strict=True)):
            _add(writer, model.at(stage), number, compression, train, contents, offset=index.rows)
        write_texts(Path(path), train, keep=index.rows)
        writer.finish()
    return open_index(path)


def append_checkpoints(model: Model, train: Examples, path: str | os.PathLike[str], contents: Contents) -> StoredIndex:
    """Add the later checkpoints of `model` to a finished index that holds its first ones, for the same examples."""
    index = open_index(path)
    model.task.check(train)
    layout = layout_for(model, train, contents.measurement, PROBE)
    contents = replace(contents, dtype=index.dtype)
    data: list[str] = index.header["data"]  # of an index that grew only the ids tell that the examples are the same
    data = data if len(data) > 1 else [train.fingerprint()]
    header = header_of(model, contents) | _capture_facts(layout) | {"data": data}
    stages = model.stages()
    known: list[dict[str, Any]] = index.header["checkpoints"]
    given: list[dict[str, Any]] = model_facts(model)["checkpoints"]
    if given[: len(known)] != known:
        raise IndexMismatch(
            f"The index '{path}' has checkpoints {_names(known)}; the model gives {_names(given)}, or "
            "other learning rates. Name the index's own checkpoints first, as they were, then the new ones."
        )
    earlier = Model(model.module, model.task, modules=model.patterns, checkpoints=stages[: len(known)], name=model.name)
    refuse_other(index, header_of(earlier, contents))
    compressions = [prepare(index.path, model, stage, number, train, contents) for number, stage in enumerate(stages)]
    header |= _fitted_facts(compressions)
    if header.get("fitted", [])[: len(known)] != index.header.get("fitted", []):
        raise IndexMismatch(
            f"The compression of the index '{path}' was fitted to something else at the checkpoints that it has "
            f"({_names(known)}). Give them as they were, or build another index."
        )
    change = {"checkpoints", "model", "origin", "fitted"}
    with Writer.append(path, header, checkpoints=len(stages), may_change=change) as writer:
        if not writer.complete:
            for number in range(len(known), len(stages)):
                kept.keep(index.path, compressions[number], number)
                _add(writer, model.at(stages[number]), number, compressions[number], train, contents)
            writer.finish()
    return open_index(path)


def prepare(
    root: Path, model: Model, stage: Checkpoint, number: int, train: Examples, contents: Contents
) -> Compression:
    """The compression of checkpoint `number`, fitted if it depends on data: as an earlier build in `root` found it, or
    to these examples.
    """
    compression = contents.compression.at(number)
    if not isinstance(compression, Fittable):
        return compression
    at = model.at(stage)
    layout = layout_for(at, train, contents.measurement, PROBE)
    return kept.fitted(root, compression, number, Evidence(at, train, contents.measurement, layout, stage.moments))


def _fitted_facts(compressions: Sequence[Compression]) -> dict[str, Any]:
    """What a header says of fitted compressions; nothing if none depends on data."""
    notes = [kept.note(compression) for compression in compressions]
    return {"fitted": notes} if any(notes) else {}


def _names(checkpoints: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(str(checkpoint["name"]) for checkpoint in checkpoints)


def header_of(model: Model, contents: Contents) -> dict[str, Any]:
    """Everything that must be equal for features to be comparable; JSON values."""
    return {
        "kind": "gradients",
        **model_facts(model),
        "origin": dict(contents.origin or {}),
        "measurement": {"kind": type(contents.measurement).__name__, "reduction": contents.measurement.reduction},
        "compression": str(contents.compression),
        "seed": contents.compression.seed,
        **_transform_fact(contents.compression),
    }


def _transform_fact(compression: Compression) -> dict[str, str]:
    """What is done to gradients beside the projection, if anything is."""
    return {"transform": compression.transform} if isinstance(compression, Elementwise) else {}


def model_facts(model: Model) -> dict[str, Any]:
    """What a header says of the model."""
    return {
        "model": {"name": model.name, "fingerprint": model.fingerprint(), "modules": list(model.patterns)},
        "task": model.task.name,
        "checkpoints": [{"name": stage.name, "rate": stage.rate} for stage in model.stages()],
    }


def _capture_facts(layout: Layout) -> dict[str, Any]:
    return {"coverage": layout.coverage, "blocks": [block.name for block in layout.blocks]}


def refuse_other(index: StoredIndex, header: Mapping[str, Any]) -> None:
    """Raise IndexMismatch, saying what differs, unless the index was built with what this header holds."""
    stored, given = _facts(index.header), _facts(header)
    for fact, (value, words) in given.items():
        before, before_words = stored[fact]
        if before != value:
            raise IndexMismatch(
                f"The index '{index.path}' was built with {fact} {before_words}, and {words} was given. Use what the "
                "index was built with, or build another index."
            )


def _facts(header: Mapping[str, Any]) -> dict[str, tuple[object, str]]:
    """What must be equal, most telling first, each with how it is told to people. Names of models may differ."""
    facts: dict[str, tuple[object, str]] = {}
    for fact in ("kind", "task", "measurement", "compression", "seed", "checkpoints", "blocks", "coverage", "data"):
        if fact in header:
            facts[fact] = (header[fact], _short(header[fact]))
    if "model" in header:
        model = header["model"]
        fingerprint = (model["fingerprint"], f"{model['name']} ({model['fingerprint'][:8]})")
        facts = {"modules": (model["modules"], _short(model["modules"] or "all")), **facts, "model": fingerprint}
    if "compression" in header:
        done = header.get("transform", "none")
        facts["transform"] = (done, done)
    order = ("kind", "task", "modules", "measurement", "transform", "compression", "seed", "checkpoints", "model")
    return {fact: facts[fact] for fact in sorted(facts, key=lambda name: (*order, name).index(name))}


def _add(
    writer: Writer,
    model: Model,
    number: int,
    compression: Compression,
    train: Examples,
    contents: Contents,
    offset: int = 0,
) -> None:
    """Features of one checkpoint from the first row that is not yet on disk."""
    start = writer.done(number) - offset
    if start >= len(train):
        return
    tiles = feature_tiles(
        model,
        train,
        compression,
        contents.measurement,
        layout_for(model, train, contents.measurement, PROBE),
        start=start,
        window=_window(writer.dim, contents.dtype),
        on_nonfinite=contents.on_nonfinite,
        miss=contents.miss,
        label=f"gradients, checkpoint {number + 1}" if number else "gradients",
    )
    for tile in tiles:
        writer.add(number, tile.ids, tile.features, tile.statistics)
    writer.end(number)


def _shard_rows(width: int, dtype: Dtype) -> int:
    """A power of two of rows, so that windows divide shards: at most 512, about a minute of a language model on a CPU, which
    is what a kill costs; and about 64 MiB.
    """
    rows = max(1, min(512, 2**26 // (width * DTYPES[dtype].itemsize)))
    return 1 << (rows.bit_length() - 1)


def _window(width: int, dtype: Dtype) -> int:
    rows = window_rows(width, limit=min(1024, _shard_rows(width, dtype)))
    return 1 << (rows.bit_length() - 1)


def _dtype(model: Model) -> Any:
    return next(iter(model.parameters.values())).dtype


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 160 else f"{text[:157]}..."


def check_measurement(index: StoredIndex, wanted: Measurement, method: str) -> None:
    """Raise InputError unless the index holds the gradients that the method needs."""
    found = index.header["measurement"]
    if found != {"kind": type(wanted).__name__, "reduction": wanted.reduction}:
        raise InputError(
            f"The index '{index.path}' holds gradients of {found['kind'].lower()} ({found['reduction']} over tokens); "
            f"the method '{method}' needs {type(wanted).__name__.lower()} ({wanted.reduction}). Build an index for "
            "that method."
        )
