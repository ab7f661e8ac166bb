"""The whole state of a training run at one moment, as flat vectors, and how a vector divides into parameters."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.errors import ModelError
from assay.training.optimizers import Flat, Moments

TRAINED_IN = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Layout:
    """Where each trainable parameter lies in a flat vector: in the module's order, one behind the other.

    `names` holds every parameter once; `aliases` maps each name of it, those of tied weights too, to that one.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    aliases: dict[str, str] = field(repr=False)

    @staticmethod
    def of(module: nn.Module) -> "Layout":
        """The trainable parameters of `module`. Raises ModelError: none, or not all of one precision and device."""
        trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not trainable:
            raise ModelError(
                f"{type(module).__name__} has no trainable parameter (requires_grad is False on all), so there is "
                "nothing to train. Set requires_grad on what training may change."
            )
        kinds = {(p.dtype, p.device) for p in trainable.values()}
        if len(kinds) > 1 or next(iter(kinds))[0] not in TRAINED_IN:
            found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
            raise ModelError(
                f"The trainable parameters are {found}; training expects all in float32 (or all in float64) on one "
                "device. Convert the module first, for example with module.float()."
            )
        first = {id(p): name for name, p in trainable.items()}
        aliases = {name: first[id(p)] for name, p in module.named_parameters(remove_duplicate=False) if p.requires_grad}
        return Layout(tuple(trainable), tuple(p.shape for p in trainable.values()), aliases)

    @property
    def sizes(self) -> list[int]:
        """Numbers in each parameter."""
        return [shape.numel() for shape in self.shapes]

    def split(self, flat: Flat) -> dict[str, Tensor]:
        """Views of a flat vector, by parameter name."""
        pieces = torch.split(flat, self.sizes)
        return {n: piece.view(shape) for n, shape, piece in zip(self.names, self.shapes, pieces, strict=True)}

    def rows(self, flat: Float[Tensor, "q params"]) -> list[Tensor]:
        """Views of several flat vectors, [q, *shape] for each parameter."""
        parts = torch.split(flat, self.sizes, dim=1)
        return [part.view(len(flat), *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def join(self, tensors: Sequence[Tensor]) -> Flat:
        """One flat vector of tensors in the order of `names`."""
        return torch.cat([tensor.reshape(-1) for tensor in tensors])


@dataclass(frozen=True)
class State:
    """Everything that the rest of a run follows from, after `step` steps.

    `moments` is what the optimiser remembers (see `optimizers`; of Adam `first` and `second`, not bias-corrected, whose
    correction takes t = `step`), `buffers` the module's own memory, such as the running statistics of BatchNorm.
    """

    step: int
    params: Flat = field(repr=False)
    moments: Moments = field(repr=False)
    buffers: dict[str, Tensor] = field(repr=False)

    @property
    def name(self) -> str:
        """What the checkpoint is called."""
        return f"step-{self.step}"


def module_state(module: nn.Module, layout: Layout, state: State) -> dict[str, Tensor]:
    """The module's `state_dict` in that state; frozen tensors are shared with `module`, not copied."""
    full: dict[str, Tensor] = module.state_dict()
    split = layout.split(state.params)
    trained = {alias: split[name] for alias, name in layout.aliases.items()}
    if missing := sorted(set(trained) - set(full)):
        raise ModelError(
            f"The state_dict of {type(module).__name__} does not hold its parameter {missing[0]} under that name, so "
            "its checkpoints cannot be kept. Train the module without the hook that renames it."
        )
    known = {name: tensor for name, tensor in state.buffers.items() if name in full}
    return {**full, **trained, **known}
