"""What Adam remembered at a checkpoint, and how to read it from disk; nothing there is executed.

optimizer.pt                 of the model library's trainer, read with `weights_only=True`
step-00000100.safetensors    of a training run of ours (`docs/training.md`)
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from assay.errors import ModelError

TRAINER = "optimizer.pt"


@dataclass(frozen=True)
class AdamMoments:
    """Running averages of the gradient (`first`) and of its square (`second`) by parameter name, after `step` steps.

    Without bias correction, as optimisers keep them: divide by `1 - beta^step`.
    """

    first: Mapping[str, Tensor] = field(repr=False)
    second: Mapping[str, Tensor] = field(repr=False)
    step: int
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8


def moments_file(folder: Path) -> Path | None:
    """The file of a checkpoint's directory that holds its optimiser's memory, if there is one."""
    ours = sorted(folder.glob("step-*.safetensors"))
    if (folder / TRAINER).is_file():
        return folder / TRAINER
    return ours[0] if len(ours) == 1 else None


def read_moments(path: Path, module: nn.Module) -> AdamMoments:
    """The moments in a file that `moments_file` found. Raises ModelError if they are not Adam's or of another model."""
    return _trainers(path, module) if path.name == TRAINER else _ours(path, module)


# -- a training run of ours --------------------------------------------------------------------------------------------


def read_flat(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a step's file, and what it says of its run. Raises ModelError for a damaged file."""
    try:
        with cast(Any, safe_open)(path, "pt") as opened:
            run: dict[str, Any] = json.loads(cast(dict[str, str], opened.metadata())["run"])
            return {name: opened.get_tensor(name) for name in list(opened.keys())}, run
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as a checkpoint of a training run: {error}") from error


def split_flat(flat: Tensor, module: nn.Module, path: Path) -> dict[str, Tensor]:
    """A vector over all trainable parameters by their names."""
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    sizes = [p.numel() for p in trainable.values()]
    pieces = torch.split(flat, sizes) if flat.shape == (sum(sizes),) else ()
    if not pieces:
        raise ModelError(
            f"{path} holds {flat.numel():,} numbers a vector and the model has {sum(sizes):,} trainable parameters; "
            "they belong to different models."
        )
    return {name: piece.view(p.shape) for (name, p), piece in zip(trainable.items(), pieces, strict=True)}


def _ours(path: Path, module: nn.Module) -> AdamMoments:
    tensors, run = read_flat(path)
    if "moment.first" not in tensors or "moment.second" not in tensors:
        raise ModelError(f"{path} was trained with {run.get('optimizer')}; the moments of adam or adamw were expected.")
    first, second = (split_flat(tensors[f"moment.{name}"], module, path) for name in ("first", "second"))
    beta1, beta2 = run["betas"]
    return AdamMoments(first, second, int(path.stem.removeprefix("step-")), (beta1, beta2), run["eps"])


# -- the model library's trainer ---------------------------------------------------------------------------------------


def _trainers(path: Path, module: nn.Module) -> AdamMoments:
    """The file numbers parameters in the order in which the trainer gave them to the optimiser."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        groups: list[dict[str, Any]] = content["param_groups"]
        state: dict[int, dict[str, Any]] = content["state"]
        numbers = [[int(k) for k in group["params"]] for group in groups]
        betas, eps = groups[0]["betas"], float(groups[0]["eps"])
        steps = {int(entry["step"]) for entry in state.values()}
        moments = [{k: entry[name] for k, entry in state.items()} for name in ("exp_avg", "exp_avg_sq")]
    except (OSError, RuntimeError, UnpicklingError, EOFError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelError(
            f"{path} cannot be read as the state of Adam or AdamW (expected param_groups, and exp_avg, exp_avg_sq and "
            f"step of each parameter): {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error
    if len(steps) != 1:
        raise ModelError(f"{path} holds parameters after {len(steps)} different numbers of steps; one was expected.")
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    for names in _orders(groups, module, trainable):
        order = dict(zip([k for group in numbers for k in group], names, strict=False))
        if len(order) == len(names) == sum(map(len, numbers)) and _fits(order, moments[0], trainable):
            first, second = (_named(order, part, trainable) for part in moments)
            return AdamMoments(first, second, steps.pop(), (float(betas[0]), float(betas[1])), eps)
    raise ModelError(
        f"{path} holds moments of {sum(map(len, numbers))} parameters that do not fit the model's {len(trainable)} "
        "trainable ones; they belong to different models, or other parameters were trained."
    )


def _orders(
    groups: Sequence[Mapping[str, Any]], module: nn.Module, trainable: Mapping[str, nn.Parameter]
) -> Iterator[list[str]]:
    """Orders in which the parameters may be numbered: the names in the file; the module's; those that decay first."""
    if all("param_names" in group for group in groups):
        yield [str(name) for group in groups for name in group["param_names"]]
    if len(groups) == 1:
        yield list(trainable)
    if len(groups) == 2:
        from transformers import Trainer

        decays = set(cast(Any, Trainer).get_decay_parameter_names(None, module))
        yield [*(n for n in trainable if n in decays), *(n for n in trainable if n not in decays)]


def _fits(order: Mapping[int, str], moment: Mapping[int, Tensor], trainable: Mapping[str, nn.Parameter]) -> bool:
    known = all(k in order and order[k] in trainable for k in moment)
    return known and all(tensor.shape == trainable[order[k]].shape for k, tensor in moment.items())


def _named(
    order: Mapping[int, str], moment: Mapping[int, Tensor], trainable: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """By name; a parameter that never had a gradient has no state, and zeros here."""
    zeros = {name: torch.zeros(p.shape) for name, p in trainable.items()}
    return zeros | {order[k]: tensor for k, tensor in moment.items()}
