"""A record: what a run's model thought of each training example, observation by observation; and its directory.

    examples.json                      the ids
    observation-0001.safetensors       one observation of every example: numbers [columns, n], steps [n]
    state-00000120.safetensors         all that is not in those files, after step 120: observations that not every example has
                                       yet (numbers [k, columns, n], steps [k, n]), labels, gradient norms, input gradients
    record.json                        the manifest, written last: format, version, kind, and the last two states, each with its
                                       step, files, sizes and SHA-256

Every file is written under a temporary name and renamed. With two states a run that was killed after either checkpoint finds
the record as it was there. Nothing is executed on reading.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from jaxtyping import Float, Float32, Int32, Int64
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from assay.dynamics.looks import NO_CLASS, Moments
from assay.dynamics.statistics import COLUMNS
from assay.errors import InputError, MethodError
from assay.run_directory import describe, replacing

FORMAT, VERSION, MANIFEST = "assay-record", 1, "record.json"
Kind = Literal["batches", "evaluations"]
STATES = 2
"""States that a directory keeps."""
NEVER = -1
"""The step of an observation that is not there."""


@dataclass(frozen=True, eq=False)
class Record:
    """Observations of n examples; the k-th observation of each example stands in row k.

    `numbers[k]`, float32: the columns of `dynamics.statistics.COLUMNS`, NaN where an example has fewer observations. `steps`:
    the number of steps done when it was observed, -1 for none. `kind`: `"batches"`, as the example was trained on (in
    training mode, before the step), or `"evaluations"` of all examples (in evaluation mode). `labels`: each example's class,
    -1 where it has none or several. `norms[l]`: gradient norms at the steps `norm_steps`, where the learning rate was
    `norm_rates` (NaN: not told). `inputs`: running moments of the input gradients. `step`: how far the run was.
    """

    ids: Sequence[str] = field(repr=False)
    kind: Kind
    step: int
    numbers: Float32[np.ndarray, "k columns n"] = field(repr=False)
    steps: Int32[np.ndarray, "k n"] = field(repr=False)
    labels: Int64[np.ndarray, " n"] = field(repr=False)
    norms: Float32[np.ndarray, "l n"] = field(repr=False)
    norm_steps: Sequence[int] = ()
    norm_rates: Sequence[float] = ()
    inputs: Moments = field(default_factory=Moments.none, repr=False)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def column(self, name: str, first: int = 0) -> Float32[np.ndarray, "k n"]:
        """One column of every observation, or of the first so many; NaN where there is none."""
        return self.numbers[: first or None, COLUMNS.index(name)]

    @property
    def observations(self) -> Int64[np.ndarray, " n"]:
        """How often each example was observed."""
        return (self.steps >= 0).sum(0)

    def select(self, rows: Int64[np.ndarray, " m"]) -> "Record":
        """Of the examples at these positions."""
        offsets, counts = self.inputs.offsets, np.diff(self.inputs.offsets)
        inputs, positions = self.inputs, cast(list[int], rows.tolist())
        if inputs.count:
            picked = np.concatenate([np.arange(int(offsets[row]), int(offsets[row + 1])) for row in positions])
            ends = np.concatenate([[0], np.cumsum(counts[rows])])
            inputs = Moments(inputs.count, ends, inputs.mean[picked], inputs.squares[picked])
        return Record(
            [self.ids[row] for row in positions], self.kind, self.step, self.numbers[:, :, rows], self.steps[:, rows],
            self.labels[rows], self.norms[:, rows], self.norm_steps, self.norm_rates, inputs, self.notes,
        )  # fmt: skip

    def of(self, ids: Sequence[str]) -> "Record":
        """Of the examples with these ids, in their order. Raises MethodError for one that was not recorded."""
        if list(ids) == list(self.ids):
            return self
        place = {id: row for row, id in enumerate(self.ids)}
        for id in ids:
            if id not in place:
                raise MethodError(
                    f"Example {id} is not in the record, which holds {len(self)} examples ({self.ids[0]}, ...). Give the data "
                    "that the run was recorded on, with the same ids."
                )
        return self.select(np.array([place[id] for id in ids]))

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write the directory. Raises InputError if it holds a record of other examples, StorageError."""
        Folder(Path(directory), self.ids, self.kind).write(self, complete=[])

    @staticmethod
    def load(directory: str | os.PathLike[str]) -> "Record":
        """The last state of a directory. Raises InputError if there is none, or it is damaged."""
        folder = Path(directory)
        manifest = read_manifest(folder)
        if manifest is None:
            raise InputError(f"{folder} holds no {MANIFEST}; expected a record, as written by assay.Recorder(out=...).")
        return Folder(folder, read_ids(folder), manifest["kind"]).read(manifest["states"][-1])


@dataclass(frozen=True)
class Folder:
    """The directory of one record."""

    directory: Path
    ids: Sequence[str]
    kind: Kind

    def write(self, record: Record, complete: Sequence[str], after: bool = False) -> None:
        """Write a state; `complete` names the files of the observations in front of those of `record`.

        `after`: the states that are there are earlier ones of the same run; otherwise they go.
        """
        manifest = read_manifest(self.directory)
        if manifest is None:
            with replacing(self.directory / "examples.json") as temporary:
                temporary.write_text(json.dumps(list(self.ids)), encoding="utf-8")
        self.check(manifest)
        name = f"state-{record.step:08d}.safetensors"
        self._save(name, {
            "numbers": record.numbers, "steps": record.steps, "labels": record.labels, "norms": record.norms,
            "norm_steps": np.array(record.norm_steps, np.int64), "norm_rates": np.array(record.norm_rates, np.float64),
            "looks": np.array([record.inputs.count]), "offsets": record.inputs.offsets, "mean": record.inputs.mean,
            "squares": record.inputs.squares,
        })  # fmt: skip
        known = (
            [] if manifest is None or not after else [one for one in manifest["states"] if one["step"] < record.step]
        )
        told: dict[str, Any] = {}  # what is complete does not change, so it is not read again
        for one in known:
            told.update(one["files"])
        files = {file: told.get(file) or describe(self.directory / file) for file in (*complete, name)}
        state: dict[str, Any] = {
            "step": record.step,
            "observations": list(complete),
            "state": name,
            "notes": list(record.notes),
            "files": files,
        }
        states: list[dict[str, Any]] = [*known, state][-STATES:]
        whole = {
            "format": FORMAT,
            "version": VERSION,
            "n": len(self.ids),
            "columns": list(COLUMNS),
            "kind": self.kind,
            "states": states,
        }
        with replacing(self.directory / MANIFEST) as temporary:
            temporary.write_text(json.dumps(whole, indent=1), encoding="utf-8")
        self._tidy({file for one in states for file in one["files"]})

    def write_observation(
        self, number: int, step: int, numbers: Float32[np.ndarray, "columns n"], steps: Int32[np.ndarray, " n"]
    ) -> str:
        """Write an observation that every example has; its file's name."""
        name = f"observation-{number + 1:04d}-{step:08d}.safetensors"
        self._save(name, {"numbers": numbers, "steps": steps})
        return name

    def observation(self, name: str) -> tuple[Float32[np.ndarray, "columns n"], Int32[np.ndarray, " n"]]:
        """What `write_observation` wrote."""
        found = self._load(name, None)
        return found["numbers"], found["steps"]

    def read(self, state: Mapping[str, Any], whole: bool = True) -> Record:
        """A state; not `whole`: without the observations that have files of their own. Raises InputError."""
        files = state["files"]
        own = self._load(state["state"], files)
        numbers, steps = [own["numbers"]], [own["steps"]]
        for name in reversed(state["observations"] if whole else []):
            found = self._load(name, files)
            numbers.insert(0, found["numbers"][None])
            steps.insert(0, found["steps"][None])
        inputs = Moments(int(own["looks"].item()), own["offsets"], own["mean"], own["squares"])
        return Record(
            self.ids, self.kind, state["step"], np.concatenate(numbers), np.concatenate(steps), own["labels"], own["norms"],
            own["norm_steps"].tolist(), own["norm_rates"].tolist(), inputs, tuple(state["notes"]),
        )  # fmt: skip

    def check(self, manifest: Mapping[str, Any] | None) -> None:
        """Refuse the directory of another record."""
        if manifest is None:
            return
        if read_ids(self.directory) != list(self.ids):
            raise MethodError(
                f"{self.directory} holds a record of other examples. Give a directory of its own, or delete it."
            )
        if manifest["kind"] != self.kind:
            raise MethodError(
                f"{self.directory} holds a record of {manifest['kind']}, and this one is of {self.kind}; these are no "
                "observations of one kind. Give a directory of its own."
            )

    def _save(self, name: str, tensors: Mapping[str, np.ndarray]) -> None:
        with replacing(self.directory / name) as temporary:
            cast(Any, safetensors).save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, temporary)

    def _load(self, name: str, files: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
        path = self.directory / name
        if not path.is_file() or (files is not None and describe(path) != files.get(name)):
            raise InputError(f"{path} is missing or not what was written; copy the record again, or record again.")
        try:
            return cast(Any, safetensors).load_file(path)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path} cannot be read: {error}. Copy the record again, or record again.") from error

    def _tidy(self, kept: set[str]) -> None:
        for pattern in ("state-*.safetensors", "observation-*.safetensors"):
            for path in self.directory.glob(pattern):
                if path.name not in kept:
                    path.unlink(missing_ok=True)


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest, or None if there is none. Raises InputError if it is another format or damaged."""
    path = directory / MANIFEST
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = found["format"] == FORMAT and found["version"] == VERSION and found["columns"] == list(COLUMNS)
        known = known and found["kind"] in get_args(Kind) and found["states"][-1]["step"] >= 0
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path} cannot be read ({error}); expected the manifest of a record.") from error
    if not known:
        raise InputError(f"{path} is {found['format']} version {found['version']}; expected {FORMAT} {VERSION}.")
    return found


def read_ids(directory: Path) -> list[str]:
    """The ids of a record's examples. Raises InputError."""
    path = directory / "examples.json"
    try:
        return [str(id) for id in cast(list[Any], json.loads(path.read_text(encoding="utf-8")))]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}); copy the record again, or record again.") from error


def no_labels(n: int) -> Int64[np.ndarray, " n"]:
    """Before anything is seen."""
    return np.full(n, NO_CLASS, np.int64)


def spread_over(values: Float[np.ndarray, "k n"]) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Mean and standard deviation (of the population) of each column over the rows that are not NaN; float64."""
    whole = values.astype(np.float64)
    return np.nanmean(whole, 0), np.nanstd(whole, 0)
