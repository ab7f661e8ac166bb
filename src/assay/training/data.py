"""The training examples of a run as tensors, the order in which they are visited, and their weights."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from assay.errors import DataError, MethodError
from assay.examples import Examples, read
from assay.tasks import Batch, Item, Task
from assay.training.randomness import permutation


@dataclass(frozen=True)
class Encoded:
    """Examples encoded by a task once, for any number of runs. Kept in memory.

    Examples of equal shapes are stacked, so that a batch is one lookup; others are collated batch by batch.
    """

    examples: Examples
    task: Task = field(repr=False)
    items: tuple[Item, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.items)

    def __getstate__(self) -> dict[str, Any]:
        """For another process: tensors of their own, as a row of a large array would bring all of it along."""
        items = tuple(
            replace(item, tensors={name: tensor.clone() for name, tensor in item.tensors.items()})
            for item in self.items
        )
        return {"examples": self.examples, "task": self.task, "items": items}

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The examples' ids."""
        return tuple(item.id for item in self.items)

    @cached_property
    def stacked(self) -> dict[str, Tensor] | None:
        """All examples as one batch, where the task's collating is plain stacking."""
        if type(self.task).collate is not Task.collate:
            return None
        return self.task.collate(self.items).tensors

    def select(self, rows: Int[np.ndarray, " k"]) -> "Encoded":
        """The examples at these positions, encoded as they are."""
        positions = cast(list[int], rows.tolist())
        return Encoded(self.examples.select(rows), self.task, tuple([self.items[row] for row in positions]))

    def batch(self, rows: Int[Tensor, " batch"], device: torch.device) -> Batch:
        """The examples at these positions."""
        positions = cast(list[int], rows.tolist())
        if self.stacked is None:
            return self.task.collate([self.items[position] for position in positions], device)
        tensors = {name: tensor[rows].to(device) for name, tensor in self.stacked.items()}
        return Batch(tuple([self.ids[position] for position in positions]), tensors)


def encode(examples: Any, task: Task) -> Encoded:
    """Examples, or whatever `assay.read` reads, as the task's tensors; `Encoded` are returned as they are.

    Raises DataError: no examples, examples of another kind, or one that does not fit the task.
    """
    if isinstance(examples, Encoded):
        if examples.task is not task:
            raise MethodError("These examples were encoded for another task; encode them with this recipe.")
        return examples
    examples = read(examples)
    if not len(examples):
        raise DataError("There are no examples; at least one was expected.")
    task.check(examples)
    return Encoded(examples, task, tuple(task.encode(example) for example in examples))


@dataclass(frozen=True)
class Order:
    """Which examples each step sees: a new permutation every epoch, cut into batches, the last one short.

    It follows from `n`, `size`, `epochs` and `seed` alone, so leaving examples out by weight moves nobody.
    """

    n: int
    size: int
    epochs: int
    seed: int

    @property
    def per_epoch(self) -> int:
        """Steps an epoch."""
        return -(-self.n // self.size)

    @property
    def total(self) -> int:
        """Steps in all."""
        return self.epochs * self.per_epoch

    def rows(self, step: int) -> Int[Tensor, " batch"]:
        """Positions of the examples of a step, counted from 0."""
        epoch, batch = divmod(step, self.per_epoch)
        return permutation(self.n, self.seed, epoch)[batch * self.size : (batch + 1) * self.size]


def checked_weights(weights: Any, n: int) -> Float[Tensor, " n"]:
    """One finite weight an example, float64 on the CPU; None is 1 for all.

    Raises MethodError for anything else. Negative weights are allowed: they train against an example.
    """
    if weights is None:
        return torch.ones(n, dtype=torch.float64)
    try:
        plain = weights.detach().cpu() if isinstance(weights, Tensor) else np.asarray(weights)
        checked = torch.as_tensor(plain).to(torch.float64).clone()
    except (TypeError, ValueError) as error:
        raise MethodError(f"The weights are no list of numbers ({error}); give {n} numbers, one an example.") from error
    if checked.shape != (n,):
        raise MethodError(
            f"The weights have shape {list(checked.shape)} and there are {n} examples; give one weight an example, "
            "0 for those to be left out."
        )
    if not bool(checked.isfinite().all()):
        first = int((~checked.isfinite()).nonzero()[0])
        raise MethodError(f"The weight at position {first} is {float(checked[first])}; expected finite numbers.")
    return checked


def evenly(total: int, count: int) -> list[int]:
    """`count` step counts spread evenly over `total` steps, the last being the end; fewer if there are fewer steps."""
    count = min(count, total)
    return [round(k * total / count) for k in range(1, count + 1)]
