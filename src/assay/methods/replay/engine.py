"""From the final gradients of measurements to the derivative by every training example's weight."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Float64
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors
from torch import Tensor

from assay import progress
from assay.errors import InputError, NonFiniteError
from assay.methods.replay.adjoint import Adjoint, Backward
from assay.methods.replay.exact import twice_differentiable
from assay.methods.replay.tape import Tape
from assay.run_directory import replacing


def differentiate(
    tape: Tape, gradients: Float[Tensor, "q params"], memory: float, folder: Path | None = None, products: str = "exact"
) -> Float64[Tensor, "q n"]:
    """`dm/dw_i` of each measurement whose gradient at the end of the run is a row of `gradients`.

    Args:
        tape: the recorded run.
        memory: bytes that adjoints may take; more queries than fit are replayed in groups.
        folder: where the adjoint is kept at the end of each segment, so that a killed replay goes on.
        products: how second derivatives are taken, `exact` or `gauss-newton`.

    Raises NonFiniteError: the adjoint left the range of its numbers, as in training that is unstable.
    """
    each = gradients.shape[1] * gradients.element_size() * (1 + len(tape.steps.update.optimizer.remembers))
    width = max(1, int(memory // each))
    groups = torch.split(gradients, width)
    with progress.task("replaying", len(groups) * len(tape.steps)) as advance:
        found = [_group(tape, group, folder, products, advance) for group in groups]
    return torch.cat(found) if found else torch.zeros(0, len(tape.steps.weights), dtype=torch.float64)


def _group(
    tape: Tape, gradients: Float[Tensor, "q params"], folder: Path | None, products: str, advance: progress.Advance
) -> Float64[Tensor, "q n"]:
    steps, backward = tape.steps, Backward(tape.steps, products)
    adjoint, step = Adjoint.of(steps, gradients), len(steps)
    shelf = None if folder is None else Shelf.of(folder, gradients, products)
    if shelf is not None and (kept := shelf.read(gradients.device)) is not None:
        adjoint, step, backward.products.batched = kept
        advance(len(steps) - step)
    with twice_differentiable():
        for segment in tape.before(step):
            for state in tape.walk(segment):
                backward(adjoint, state)
                advance()
            if shelf is not None:
                shelf.write(adjoint, segment[0], backward.products.batched)
    if not bool(adjoint.tau.isfinite().all()):
        raise NonFiniteError(
            "The adjoint became infinite on its way back: training is so unstable that a weight has no useful derivative. "
            "Lower the learning rate, add warmup, or clip the gradient (clip=1.0)."
        )
    return adjoint.tau.cpu()


@dataclass(frozen=True)
class Shelf:
    """Where one group's adjoint lies between segments; the file's name says which final gradients it began with."""

    path: Path

    @staticmethod
    def of(folder: Path, gradients: Float[Tensor, "q params"], products: str) -> "Shelf":
        """The place of these gradients' adjoint."""
        digest = hashlib.sha256(gradients.cpu().contiguous().flatten().view(torch.uint8).numpy().data).hexdigest()
        return Shelf(folder / f"adjoint-{products}-{digest[:16]}.safetensors")

    def write(self, adjoint: Adjoint, step: int, batched: bool | None) -> None:
        """The adjoint before step `step`, whole or not at all."""
        tensors = {"tau": adjoint.tau, **{f"state.{name}": tensor for name, tensor in adjoint.state.items()}}
        whole = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        with replacing(self.path) as temporary:
            cast(Any, safetensors).save_file(
                whole, temporary, {"about": json.dumps({"step": step, "batched": batched})}
            )

    def read(self, device: torch.device) -> tuple[Adjoint, int, bool | None] | None:
        """Adjoint, step and whether queries went as a batch; None if nothing is there. Raises InputError."""
        if not self.path.exists():
            return None
        try:
            with cast(Any, safe_open)(self.path, "pt", device=str(device)) as opened:
                about: Mapping[str, Any] = json.loads(opened.metadata()["about"])
                tensors: dict[str, Tensor] = {name: opened.get_tensor(name) for name in list(opened.keys())}
            tau = tensors.pop("tau")
            state = {name.removeprefix("state."): tensor for name, tensor in tensors.items()}
            return Adjoint(state, tau), int(about["step"]), about["batched"]
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{self.path} is damaged ({error}). Delete it; the replay then starts again.") from error
