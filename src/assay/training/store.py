"""A training run on disk: one safetensors file a checkpoint, `training.json` last.

    step-00000100.safetensors   params, moment.<name>, buffer.<name>, losses (of all steps so far);
                                in its metadata what the run is (`run`) and the seconds so far
    training.json               format, version, what the run is, and each file's size and SHA-256

Every file is written under a temporary name and renamed, so each one present is whole, and the state in it is all that
the rest of the run follows from. Nothing is executed on reading.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors
from torch import Tensor

from assay.errors import InputError, MethodError
from assay.run_directory import describe, replacing
from assay.training.state import State

FORMAT, VERSION, MANIFEST = "assay-training", 1, "training.json"


@dataclass(frozen=True)
class Saved:
    """A state with the learning curve and the seconds up to it."""

    state: State
    losses: list[float]
    seconds: float


@dataclass(frozen=True)
class Store:
    """The directory of one run; `identity` says which run it is, in terms of JSON."""

    directory: Path
    identity: Mapping[str, Any]

    def path(self, step: int) -> Path:
        """Where the checkpoint after `step` steps lies."""
        return self.directory / f"step-{step:08d}.safetensors"

    def write(self, saved: Saved) -> None:
        """Write one checkpoint, whole or not at all. Raises StorageError."""
        state = saved.state
        tensors: dict[str, Tensor] = {
            "params": state.params,
            "losses": torch.tensor(saved.losses, dtype=torch.float64),
            **{f"moment.{name}": tensor for name, tensor in state.moments.items()},
            **{f"buffer.{name}": tensor for name, tensor in state.buffers.items()},
        }
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        metadata = {"run": json.dumps(self.identity, sort_keys=True), "seconds": repr(saved.seconds)}
        with replacing(self.path(state.step)) as temporary:
            cast(Any, safetensors).save_file(whole, temporary, metadata)

    def read(self, step: int, device: torch.device) -> Saved:
        """Read one checkpoint. Raises InputError if it is damaged, MethodError if it belongs to another run."""
        path = self.path(step)
        try:
            with cast(Any, safe_open)(path, "pt", device=str(device)) as opened:
                metadata = cast(dict[str, str], opened.metadata())
                tensors: dict[str, Tensor] = {name: opened.get_tensor(name) for name in list(opened.keys())}
            self._check(json.loads(metadata["run"]))
            moments, buffers = _under(tensors, "moment."), _under(tensors, "buffer.")
            state = State(step, tensors["params"], moments, buffers)
            losses = cast(list[float], tensors["losses"].tolist())
            return Saved(state, losses, float(metadata["seconds"]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"The checkpoint {path} is damaged ({error}). Delete it; training goes on from the one before."
            ) from error

    def last(self, steps: Sequence[int]) -> int:
        """The last of these step counts whose checkpoint is there with all before it; 0 if the first is missing."""
        found = 0
        for step in steps:
            if not self.path(step).exists():
                break
            found = step
        return found

    def finish(self, steps: Sequence[int]) -> None:
        """Write the manifest: the run is complete."""
        files = {self.path(step).name: describe(self.path(step)) for step in steps}
        manifest = {"format": FORMAT, "version": VERSION, "run": self.identity, "steps": list(steps), "files": files}
        with replacing(self.directory / MANIFEST) as temporary:
            temporary.write_text(json.dumps(manifest, indent=2), encoding="utf-8")

    def finished(self, steps: Sequence[int]) -> bool:
        """Whether the manifest is there; if so, all files are what was written. Raises InputError or MethodError."""
        path = self.directory / MANIFEST
        if not path.exists():
            return False
        try:
            manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            known = manifest["format"] == FORMAT and manifest["version"] == VERSION
            identity, files = manifest["run"], manifest["files"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} cannot be read ({error}); expected the manifest of a training run.") from error
        if not known:
            found = f"{manifest['format']} {manifest['version']}"
            raise InputError(f"{path} has format {found}; expected {FORMAT} {VERSION}.")
        self._check(identity)
        for step in steps:
            file = self.path(step)
            if not file.is_file() or describe(file) != files.get(file.name):
                raise InputError(
                    f"The checkpoint {file} is missing or not what was written. Delete {path} and it, and train again."
                )
        return True

    def _check(self, found: Mapping[str, Any]) -> None:
        """Refuse another run's files and say how it differs. What this identity leaves out is not compared."""
        differ = [name for name, value in self.identity.items() if found.get(name) != value]
        if differ:
            raise MethodError(
                f"{self.directory} holds another training run; it differs in: {', '.join(differ)}. "
                "Give a directory of its own, or delete that one."
            )


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
