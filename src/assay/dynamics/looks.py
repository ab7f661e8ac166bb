"""Looks at all training examples at one moment of a run: their logits, gradient norms, and gradients by the input.

The module is borrowed: evaluation mode within, weights frozen where gradients are taken, all as before afterwards, the
parameters' own `.grad` included.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor, nn

from assay import progress
from assay.compress.against import Against
from assay.dynamics.statistics import COLUMNS, by_example, check_finite, statistics
from assay.errors import DataError, MethodError, NonFiniteError
from assay.examples import Examples
from assay.gradients import features
from assay.gradients.functional import requiring_gradients
from assay.index.build import PROBE
from assay.models import Model
from assay.tasks import Batch, Loss, Task
from assay.tasks.base import check_classes, evaluating

WINDOW = 1024
"""Examples that are encoded at a time."""
NO_CLASS = -1
"""The label of an example with several predicted tokens."""


def batches(
    model: Model, examples: Examples, label: str, window: int = WINDOW
) -> Iterator[tuple[Int64[np.ndarray, " b"], Batch]]:
    """All examples, packed by length, with their positions."""
    model.task.check(examples)
    with progress.task(label, len(examples)) as advance:
        for start in range(0, len(examples), window):
            items = [model.task.encode(examples[k]) for k in range(start, min(start + window, len(examples)))]
            for members in features.pack([item.length for item in items], features.POSITIONS, features.EXAMPLES):
                yield start + np.array(members), model.task.collate([items[k] for k in members], model.device)
                advance(len(members))


@dataclass(frozen=True)
class Seen:
    """What the logits of all examples tell, by `COLUMNS`, and each example's class (`NO_CLASS`: it has several)."""

    columns: Float32[np.ndarray, "columns n"]
    labels: Int64[np.ndarray, " n"]


def evaluate(model: Model, examples: Examples, when: str = "now") -> Seen:
    """One forward pass over all examples, in evaluation mode. Raises NonFiniteError."""
    columns, labels = np.empty((len(COLUMNS), len(examples)), np.float32), np.full(len(examples), NO_CLASS)
    with evaluating(model.module), torch.no_grad():
        for rows, batch in batches(model, examples, "evaluating"):
            logits = model.task.outputs(model.module, batch)
            target, example = model.task.targets(batch)
            check_classes(target, logits.shape[1], [batch.ids[k] for k in cast(list[int], example.tolist())])
            found = by_example(statistics(logits, target), example, len(batch))
            check_finite(found, batch.ids, when)
            columns[:, rows] = found.float().cpu().numpy()
            if len(target) == len(batch):
                labels[rows] = target.cpu().numpy()
    return Seen(columns, labels)


def labels_of(model: Model, examples: Examples) -> Int64[np.ndarray, " n"]:
    """Each example's class (`NO_CLASS`: it has several); the model does not run."""
    labels = np.full(len(examples), NO_CLASS)
    for rows, batch in batches(model, examples, "labels"):
        target, _ = model.task.targets(batch)
        if len(target) == len(batch):
            labels[rows] = target.cpu().numpy()
    return labels


def gradient_norms(model: Model, examples: Examples, reduction: str = "sum") -> Float32[np.ndarray, " n"]:
    """`|grad L_i|_2` over the model's parameters; no gradient is kept. One pass, forward and backward without weights.

    Raises NonFiniteError.
    """
    model.task.check(examples)
    measurement = Loss("mean" if reduction == "mean" else "sum")
    layout = features.layout_for(model, examples, measurement, PROBE)
    size = sum(block.size for block in layout.blocks)
    squares = Against(psi=torch.empty(0, size), squares=True)
    tiles = features.feature_tiles(model, examples, squares, measurement, layout, label="gradient norms")
    found = [tile.features[:, -1].double().clamp(min=0).sqrt() for tile in tiles]
    return torch.cat(found).float().numpy()


# -- gradients by the input --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moments:
    """Running mean and sum of squared deviations of every number of every example's input gradient, by Welford.

    Flat, one example behind the other: example i has `numbers[offsets[i]:offsets[i + 1]]`. float32; memory 8 bytes a number
    of the inputs, however many looks there are.
    """

    count: int
    offsets: Int64[np.ndarray, " n1"]
    mean: Float32[np.ndarray, " m"]
    squares: Float32[np.ndarray, " m"]

    @staticmethod
    def none() -> "Moments":
        """Before the first look."""
        return Moments(0, np.zeros(1, np.int64), np.empty(0, np.float32), np.empty(0, np.float32))

    def add(self, offsets: Int64[np.ndarray, " n1"], numbers: Float32[np.ndarray, " m"]) -> "Moments":
        """With one more look."""
        if self.count == 0:
            return Moments(1, offsets, numbers, np.zeros_like(numbers))
        if not np.array_equal(offsets, self.offsets):
            raise MethodError(
                "The inputs have other shapes than at the look before; give the same examples every time."
            )
        delta = numbers - self.mean
        mean = self.mean + delta / np.float32(self.count + 1)
        return Moments(self.count + 1, offsets, mean, self.squares + delta * (numbers - mean))

    def spread(self, kind: str = "variance") -> Float[np.ndarray, " n"]:
        """Mean over an example's numbers of their variance (or standard deviation, `"std"`) over the looks. float64."""
        variance = self.squares.astype(np.float64) / max(self.count, 1)
        each = np.sqrt(variance) if kind == "std" else variance
        return np.add.reduceat(each, self.offsets[:-1]) / np.diff(self.offsets)


def input_gradients(model: Model, examples: Examples) -> tuple[Int64[np.ndarray, " n1"], Float32[np.ndarray, " m"]]:
    """Offsets and numbers of `d z_y / d input` of every example: of the logit before the softmax, whose gradient does not
    vanish where the model is sure; by the floating input, or by what the first embedding gives, without padding.

    Of several predicted tokens the mean logit. Raises MethodError, NonFiniteError.
    """
    found: list[np.ndarray | None] = [None] * len(examples)
    model.task.prepare(model.module)  # what it tries on the module must not meet our hook
    with evaluating(model.module), requiring_gradients(model.module, []):
        for rows, batch in batches(model, examples, "input gradients"):
            gradient, keep = _input_gradient(model, batch)
            for k, row in enumerate(cast(list[int], rows.tolist())):
                own = gradient[k] if keep is None else gradient[k][keep[k]]
                numbers = own.flatten().float().cpu().numpy()
                if not len(numbers):
                    raise DataError(f"Example {batch.ids[k]} has no input but padding; leave it out.")
                if not np.isfinite(numbers).all():
                    raise NonFiniteError(f"Example {batch.ids[k]} has an input gradient that is NaN or infinite.")
                found[row] = numbers
    whole = cast(list[np.ndarray], found)
    return np.concatenate([[0], np.cumsum([len(one) for one in whole])]), np.concatenate(whole)


def _input_gradient(model: Model, batch: Batch) -> tuple[Tensor, Bool[Tensor, "batch time"] | None]:
    """Of one batch, examples first; and which positions are real (None: all)."""
    x = batch.tensors.get("x")
    with torch.enable_grad():
        if x is not None and x.is_floating_point():
            leaf = x.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(_own_logit(model.task, model.module, batch.replace(x=leaf)), leaf)
            return gradient, None
        with _embedded(model.module) as found:
            value = _own_logit(model.task, model.module, batch)
        if not found:
            raise MethodError(
                f"{model.name} takes no floating input and ran no torch.nn.Embedding, so there is nothing to take input "
                "gradients of. Give a model that embeds its tokens by one."
            )
        leaf, mask = found[0]
        (gradient,) = torch.autograd.grad(value, leaf)
    keep = model.task.positions(batch)
    keep = mask if keep is None else keep
    return gradient, keep if keep is not None and keep.shape == gradient.shape[:2] else None


def _own_logit(task: Task, module: nn.Module, batch: Batch) -> Float[Tensor, ""]:
    """Sum over the batch of each example's mean logit of its right classes."""
    logits = task.outputs(module, batch)
    target, example = task.targets(batch)
    check_classes(target, logits.shape[1], [batch.ids[k] for k in cast(list[int], example.tolist())])
    own = logits.gather(1, target[:, None]).squeeze(1)
    return (own * task.shares(batch, "mean").to(own)).sum()


Leaf = tuple[Tensor, Bool[Tensor, "batch time"] | None]


@contextmanager
def _embedded(module: nn.Module) -> Generator[list[Leaf]]:
    """What the first embedding that runs gives becomes a leaf; a padding index tells which positions are real."""
    found: list[Leaf] = []

    def hook(layer: Any, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if found:
            return None
        leaf = output.detach().requires_grad_()
        ids, pad = args[0] if args else None, getattr(layer, "padding_idx", None)
        real = ids != pad if isinstance(ids, Tensor) and pad is not None and ids.shape == output.shape[:2] else None
        found.append((leaf, real))
        return leaf

    with_own = cast(Callable[[], nn.Module] | None, getattr(module, "get_input_embeddings", None))
    kinds = (nn.Embedding, nn.EmbeddingBag)
    layers = [with_own()] if with_own else [layer for layer in module.modules() if isinstance(layer, kinds)]
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
