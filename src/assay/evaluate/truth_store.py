"""Retrainings on disk: one small file each, written whole, and an index of the families of subsets they belong to.

    truth.json                       format, version, what the losses follow from, the families: per subset its name and
                                     key, the seeds, the key of the full run
    train.parquet, queries.parquet   ids in order; sources
    <key>-seed<seed>.safetensors     mask [n] bool, losses [q] float64; in its metadata a SHA-256 of both

A key is the beginning of the SHA-256 of the mask, so a subset that belongs to two families is trained once. Files are
renamed into place: one that is there is whole. `truth.json` is written before the first retraining, because it says what
the directory is for; a family is complete when all its files are there. Nothing is executed on reading.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from jaxtyping import Bool, Float64
from safetensors import SafetensorError, safe_open
from safetensors import numpy as safetensors

from assay.errors import InputError, MethodError, nearest
from assay.examples import Examples
from assay.results import arrow, parquet, write_columns
from assay.run_directory import replacing

FORMAT, VERSION, MANIFEST = "assay-truth", 1, "truth.json"


@dataclass(frozen=True)
class Family:
    """Subsets that were asked for together: names and keys in their order, the seeds, and the key of the full run."""

    name: str
    names: tuple[str, ...]
    keys: tuple[str, ...]
    seeds: tuple[int, ...]
    full: str

    @classmethod
    def of(cls, name: str, names: Sequence[str], masks: Bool[np.ndarray, "m n"], seeds: Sequence[int]) -> Self:
        """From the masks."""
        full = np.ones(masks.shape[1], dtype=np.bool_)
        return cls(name, tuple(names), tuple(key_of(mask) for mask in masks), tuple(seeds), key_of(full))


def key_of(mask: Bool[np.ndarray, " n"]) -> str:
    """The name of a subset."""
    return hashlib.sha256(f"{len(mask)}:".encode() + np.packbits(mask).tobytes()).hexdigest()[:24]


@dataclass(frozen=True)
class TruthStore:
    """An opened directory."""

    directory: Path
    identity: Mapping[str, Any]

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], identity: Mapping[str, Any], train: Examples, queries: Examples
    ) -> Self:
        """Open the directory for this truth, or make it. Raises MethodError if it holds another one."""
        store = cls(Path(path), json.loads(json.dumps(identity)))
        if (store.directory / MANIFEST).exists():
            store._check(cls.open(path).identity)
            return store
        for name, examples in (("train.parquet", train), ("queries.parquet", queries)):
            with replacing(store.directory / name) as temporary:
                write_columns({"id": list(examples.ids), "source": list(examples.sources)}, temporary)
        store._write_manifest({})
        return store

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open an existing one. Raises InputError if there is none, or a newer version of Assay wrote it."""
        directory = Path(path)
        if not (directory / MANIFEST).is_file():
            raise InputError(f"{directory} holds no {MANIFEST}, so it is no truth; make one with assay evaluate truth.")
        return cls(directory, cls(directory, {})._manifest()["identity"])

    @cached_property
    def train_ids(self) -> tuple[str, ...]:
        """Ids of the training examples, in the order of the masks."""
        return self._ids("train.parquet")

    @cached_property
    def query_ids(self) -> tuple[str, ...]:
        """Ids of the queries, in the order of the losses."""
        return self._ids("queries.parquet")

    def register(self, family: Family) -> None:
        """Note what a family consists of; one of the same name keeps the larger of both counts."""
        families = self._families()
        known = families.get(family.name)
        if known is not None and len(known.keys) > len(family.keys) and known.keys[: len(family.keys)] == family.keys:
            family = Family(family.name, known.names, known.keys, family.seeds, family.full)
        if known is not None and len(known.seeds) > len(family.seeds):
            family = Family(family.name, family.names, family.keys, known.seeds, family.full)
        if family != known:
            self._write_manifest({**families, family.name: family})

    def family(self, name: str | None = None) -> Family:
        """A family by its name or the beginning of it; None: the only one, or the first random one."""
        families = self._families()
        found = [family for known, family in families.items() if known.startswith(name or "")]
        if name is None and len(found) > 1:
            found = [family for family in found if family.name.startswith("random")][:1]
        exact = [family for family in found if family.name == name]
        if len(exact or found) != 1:
            raise InputError(
                f"{self.directory} holds no single family of subsets called {name!r}. "
                f"{nearest(name or '', families) if families else 'It holds none; run assay evaluate truth.'}"
            )
        return (exact or found)[0]

    def path(self, key: str, seed: int) -> Path:
        """Where a retraining lies."""
        return self.directory / f"{key}-seed{seed}.safetensors"

    def has(self, key: str, seed: int) -> bool:
        """Whether that retraining is there."""
        return self.path(key, seed).exists()

    def write(self, mask: Bool[np.ndarray, " n"], seed: int, losses: Float64[np.ndarray, " q"]) -> None:
        """Store one retraining, whole or not at all. Raises StorageError."""
        with replacing(self.path(key_of(mask), seed)) as temporary:
            arrays = {"mask": mask, "losses": losses}
            cast(Any, safetensors).save_file(arrays, temporary, {"sha256": _checksum(mask, losses)})

    def read(self, key: str, seed: int) -> tuple[Bool[np.ndarray, " n"], Float64[np.ndarray, " q"]]:
        """Mask and losses. Raises InputError if the file is damaged."""
        path = self.path(key, seed)
        try:
            with cast(Any, safe_open)(path, "np") as file:
                mask, losses = file.get_tensor("mask"), file.get_tensor("losses")
                right = _checksum(mask, losses) == file.metadata()["sha256"] and key_of(mask) == key
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise InputError(
                f"The retraining {path} is damaged ({error}). Delete it and run the truth again."
            ) from error
        if not right:
            raise InputError(f"The retraining {path} is not what was written. Delete it and run the truth again.")
        return mask, losses

    def load(
        self, family: Family
    ) -> tuple[Bool[np.ndarray, "m n"], Float64[np.ndarray, "seeds m q"], Float64[np.ndarray, "seeds q"]]:
        """Masks, losses and the full run's losses of a family. Raises InputError if some are missing."""
        wanted = [(key, seed) for seed in family.seeds for key in (family.full, *family.keys)]
        missing = sum(not self.has(*pair) for pair in wanted)
        if missing:
            raise InputError(
                f"{missing} of {len(wanted)} retrainings of '{family.name}' are missing in {self.directory}: it was "
                "interrupted. Run it again in the same way; what is there is kept."
            )
        read = {pair: self.read(*pair) for pair in wanted}
        masks = np.stack([read[key, family.seeds[0]][0] for key in family.keys])
        runs = np.stack([np.stack([read[key, seed][1] for key in family.keys]) for seed in family.seeds])
        return masks, runs, np.stack([read[family.full, seed][1] for seed in family.seeds])

    def _check(self, found: Mapping[str, Any]) -> None:
        """Refuse a directory of another truth, naming what differs."""
        one, other = _flat(self.identity), _flat(found)
        different = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
        if different:
            raise MethodError(
                f"{self.directory} holds the truth of something else: its {', '.join(different[:4])} differs. Give "
                "another directory, or the recipe, examples and queries that it was made with."
            )

    def _families(self) -> dict[str, Family]:
        return {
            name: Family(name, tuple(entry["names"]), tuple(entry["keys"]), tuple(entry["seeds"]), entry["full"])
            for name, entry in self._manifest()["families"].items()
        }

    def _manifest(self) -> dict[str, Any]:
        path = self.directory / MANIFEST
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            whole = {"identity", "families"} <= manifest.keys()
            known = manifest["format"] == FORMAT and manifest["version"] <= VERSION and whole
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} cannot be read ({error}); expected the index of a truth.") from error
        if not known:
            raise InputError(f"{path} has another format or a newer version than {VERSION}. Update Assay.")
        return manifest

    def _write_manifest(self, families: Mapping[str, Family]) -> None:
        content = {
            "format": FORMAT,
            "version": VERSION,
            "identity": self.identity,
            "families": {name: asdict(family) for name, family in families.items()},
        }
        with replacing(self.directory / MANIFEST) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")

    def _ids(self, name: str) -> tuple[str, ...]:
        path = self.directory / name
        try:
            return tuple(parquet.read_table(path, columns=["id"], partitioning=None)["id"].to_pylist())
        except (OSError, arrow.ArrowException) as error:
            raise InputError(f"{path} cannot be read ({error}); the truth is damaged.") from error


def _checksum(mask: Bool[np.ndarray, " n"], losses: Float64[np.ndarray, " q"]) -> str:
    return hashlib.sha256(np.packbits(mask).tobytes() + losses.tobytes()).hexdigest()


def _flat(entries: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as one, with names like `recipe.lr`."""
    flat: dict[str, Any] = {}
    for name, value in entries.items():
        if isinstance(value, Mapping):
            flat |= _flat(cast(Mapping[str, Any], value), f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
