"""How much work a model and some examples are: lengths from a sample, sizes from the layers. The model is not run.

A matrix of `s` numbers applied at `t` positions costs 2 s t operations forward and as many backward (the weights
are frozen); attention over t positions 4 t^2 w forward and twice that backward, `w` being its width.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from assay.examples import Examples
from assay.gradients.features import EXAMPLES, POSITIONS, pack
from assay.gradients.rules import RULES, Factored
from assay.gradients.rules.embedding import Embedding
from assay.models import Model
from assay.tasks import Item

SAMPLE, DRAWN = 64, 1024
"""Examples that are encoded, and lengths that are packed into batches."""


@dataclass(frozen=True)
class Data:
    """What a pass over examples meets: `positions` with padding, the `batches`, the sum of the squared lengths.

    `batch`: positions of the largest batch; `together`: examples in a typical one; `encoding`: seconds to encode one.
    """

    examples: int
    positions: float
    squares: float
    batches: float
    batch: int
    together: float
    encoding: float
    tokens: float


@dataclass(frozen=True)
class Network:
    """The module's work at one position: `products` multiplications in matrices, `sides` numbers that its layers read
    and write, of which backward needs those `held` (not the output head's, which works in chunks), `attention` width
    over all layers, the `widest` output, `calls` of modules. `first` of the products are those of a layer that reads the
    example itself, whose gradient nobody needs; a matrix is `applied` so often at one position, in the mean.
    """

    products: float
    sides: float
    held: float
    attention: float
    widest: int
    calls: int
    first: float = 0.0
    applied: float = 1.0


def data_of(model: Model, examples: Examples) -> Data:
    """Encode a sample, pack lengths like it, and scale up. Raises DataError for a sampled example that does not fit."""
    model.task.check(examples)
    step = max(1, len(examples) // SAMPLE)
    start = time.perf_counter()
    items = [model.task.encode(examples[k]) for k in range(0, len(examples), step)][:SAMPLE]
    encoding = (time.perf_counter() - start) / len(items)
    drawn = min(len(examples), DRAWN)
    lengths = [items[k % len(items)].length for k in range(drawn)]
    groups = [[lengths[k] for k in group] for group in pack(lengths, POSITIONS, EXAMPLES)]
    scale = len(examples) / drawn
    return Data(
        examples=len(examples),
        positions=scale * sum(len(group) * max(group) for group in groups),
        squares=scale * sum(len(group) * max(group) ** 2 for group in groups),
        batches=scale * len(groups),
        batch=max(len(group) * max(group) for group in groups),
        together=drawn / len(groups),
        encoding=encoding,
        tokens=scale * sum(lengths),
    )


def network_of(model: Model, example: Item) -> Network:
    """From the layers and their shapes; what an array's layers do with it from shapes alone, on no device."""
    modules = list(model.module.modules())
    matrices = [m for m in modules if _applies_matrix(m)]
    products = float(sum(m.weight.numel() for m in matrices))  # type: ignore[union-attr]
    head = getattr(model.module, "get_output_embeddings", lambda: None)()
    sides = [sum(_shape(m)) for m in matrices]
    held = sum(sides) - sum(size for m, size in zip(matrices, sides, strict=True) if m is head)
    at = 1.0  # positions that a matrix is applied at, for one position of the example
    config = getattr(model.module, "config", None)
    attention = 0.0
    if config is not None and hasattr(config, "get_text_config"):
        text = config.get_text_config()
        attention = float(getattr(text, "num_hidden_layers", 0) * getattr(text, "hidden_size", 0))
    elif "x" in example.tensors:
        counted = _counted(model.module, example.tensors["x"])
        at = counted / (2 * products) if counted and products else 1.0
    widest = max((_shape(m)[0] for m in matrices), default=1)
    reads = matrices and "x" in example.tensors and example.tensors["x"].is_floating_point()
    first = float(cast(Any, matrices[0].weight).numel()) if reads else 0.0
    return Network(at * products, at * sum(sides), at * held, attention, widest, len(modules), at * first, at)


def _applies_matrix(module: nn.Module) -> bool:
    rule = next((rule for rule in RULES if rule.fits(module)), None)
    return isinstance(rule, Factored) and not isinstance(rule, Embedding)


def _shape(module: nn.Module) -> Sequence[int]:
    weight: Any = module.weight
    return (weight.shape[0], weight[0].numel())


def _counted(module: nn.Module, x: torch.Tensor) -> float:
    """Operations of a forward pass of one array; 0 if shapes alone do not tell."""
    state = {name: value.to("meta") for name, value in module.state_dict(keep_vars=False).items()}
    kept = next((p for p in module.parameters() if p.is_floating_point()), None)
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            dtype = kept.dtype if kept is not None and x.is_floating_point() else x.dtype
            inputs = x[None].to(device="meta", dtype=dtype)
            torch.func.functional_call(module, state, (inputs,))
        return float(counter.get_total_flops())
    except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError, AttributeError):
        return 0.0
