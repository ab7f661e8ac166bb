"""What a task is: how an example becomes tensors, and what is measured of it.

Shapes: `batch` examples, each with `time` positions (1 where there is no sequence), `c` classes or tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from assay.errors import DataError, MethodError, ModelError
from assay.examples import Example, Examples
from assay.tasks.measurements import Measurement, Reduction
from assay.tasks.outcomes import OWN, LogOdds, Negated
from assay.tasks.tokens import Token

Observe = Callable[
    [nn.Module, Shaped[Tensor, "tokens cols"], Shaped[Tensor, "tokens rows"], Int[Tensor, " tokens"]], None
]
"""Called with (module, its inputs, the gradients at its outputs, the example of each row) by a task that
computes a module's output in pieces and never materialises it, so that no hook could see it."""


@dataclass(frozen=True)
class Item:
    """One encoded example: tensors on the CPU, its length in positions, and whether it was cut to fit."""

    id: str
    tensors: dict[str, Tensor]
    length: int = 1
    cut: bool = False


@dataclass(frozen=True)
class Batch:
    """Encoded examples side by side; every tensor has the examples first."""

    ids: tuple[str, ...]
    tensors: dict[str, Tensor] = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, k: int) -> "Batch":
        """Example `k` alone, padded as it is here."""
        return Batch(self.ids[k : k + 1], {name: tensor[k : k + 1] for name, tensor in self.tensors.items()})

    def replace(self, **tensors: Tensor) -> "Batch":
        """The same examples with some tensors replaced."""
        return replace(self, tensors={**self.tensors, **tensors})


class Task(ABC):
    """Turns examples into batches and measures them; holds no model."""

    name: str
    kinds: tuple[str, ...]
    token_parts: ClassVar[tuple[str, ...]] = ()
    """The folds over tokens that scores of this task have, of those in `assay.grain.BY`."""
    link: ClassVar[Literal["softmax", "identity"] | None] = None
    """How the loss follows from `outputs`: cross-entropy of their softmax, half the squared distance, or otherwise."""

    def check(self, examples: Examples) -> None:
        """Refuse examples of a kind that this task cannot read."""
        if examples.kind not in self.kinds:
            raise DataError(
                f"{examples.origin} holds examples of kind '{examples.kind}'; the task '{self.name}' reads "
                f"{' or '.join(self.kinds)}. Give data of that kind, or a model of another task."
            )

    def identity(self) -> str:
        """What decides how an example becomes tensors, for fingerprints."""
        return self.name

    def prepare(self, module: nn.Module) -> None:  # noqa: B027 - optional for a task
        """Look at the module once, before any hook is on it."""

    @abstractmethod
    def encode(self, example: Example) -> Item:
        """One example as tensors; `DataError` names the example if it does not fit."""

    def collate(self, items: Sequence[Item], device: torch.device | str = "cpu") -> Batch:
        """Items side by side. By default all tensors have equal shapes."""
        names = items[0].tensors.keys()
        try:
            tensors = {name: torch.stack([item.tensors[name] for item in items]).to(device) for name in names}
        except RuntimeError as error:
            raise DataError(f"Examples {items[0].id}... have different shapes: {error}") from error
        return Batch(tuple(item.id for item in items), tensors)

    @abstractmethod
    def measure(
        self, module: nn.Module, batch: Batch, measurement: Measurement, observe: Observe | None = None
    ) -> Float[Tensor, " batch"]:
        """The measurement of each example, differentiable in the module's parameters."""

    def terms(self, module: nn.Module, batch: Batch, measurement: Measurement) -> Float[Tensor, "batch n"]:
        """What the measurement is a sum of: for texts one term for each token of `tokens_of`, by the plain graph.

        Here one term, the measurement itself.
        """
        return self.measure(module, batch, measurement)[:, None]

    def tokens_of(self, example: Example, measurement: Measurement | None = None) -> tuple[Token, ...]:
        """The tokens of an example as the model sees them, in order; of both completions, if both are measured.

        Raises MethodError for a task without tokens.
        """
        raise MethodError(
            f"The task '{self.name}' has no tokens, so scores have no parts by token, position or sentence. Ask for "
            "parts by module or layer."
        )

    def outputs(self, module: nn.Module, batch: Batch) -> Float[Tensor, "n c"]:
        """The module's outputs at each predicted position of the batch, of which the loss is a convex function (`link`),
        by the plain graph: any order and mode of differentiation goes through it. At least float32.

        Raises MethodError for a task that knows its loss only.
        """
        raise MethodError(
            f"The task '{self.name}' knows its loss only, not the outputs that it follows from, so there is no "
            "Gauss-Newton matrix. Choose a method with the empirical Fisher matrix, or the task Classify or Regress."
        )

    def targets(self, batch: Batch) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """The right class of each row of `outputs`, and the row's example by its place in the batch, ascending.

        Raises MethodError for a task whose outputs are no classes.
        """
        raise MethodError(
            f"The task '{self.name}' has no classes, of which margins and probabilities would be. Choose a method that "
            "takes gradients of the loss, or a task with classes: Classify, SequenceClassification, CausalLM."
        )

    def shares(self, batch: Batch, reduction: Reduction) -> Float[Tensor, " n"]:
        """What each row of `outputs` counts in its example's loss: 1 for a sum, 1/positions for a mean."""
        return torch.ones(len(batch), dtype=torch.float64)

    def positions(self, batch: Batch) -> Bool[Tensor, "batch time"] | None:
        """Which positions of each example are real, where some only fill up its tensors; None: all."""
        return None

    def sample_labels(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with targets drawn from the model's own distribution (for the Fisher matrix)."""
        raise MethodError(
            f"The task '{self.name}' has no distribution to sample labels from, which this method needs. "
            "Choose its empirical variant, or a task with a likelihood."
        )

    def features(self, module: nn.Module, batch: Batch) -> Float[Tensor, "batch hidden"]:
        """A representation of each example by the model itself, for similarity."""
        raise MethodError(f"The task '{self.name}' has no hidden representation; give an encoder instead.")


@contextmanager
def evaluating(module: nn.Module) -> Generator[None]:
    """No dropout and no batch statistics within; then each submodule's mode as it was."""
    training = [m for m in module.modules() if m.training]
    for m in training:
        m.training = False
    try:
        yield
    finally:
        for m in training:
            m.training = True


def precise(logits: Tensor) -> Tensor:
    """At least float32, for losses."""
    return logits if logits.dtype == torch.float64 else logits.float()


def draw(logits: Float[Tensor, "n c"], generator: torch.Generator) -> Int[Tensor, " n"]:
    """One class a row from softmax(logits); drawn on the CPU so that the seed means the same everywhere."""
    probabilities = logits.detach().float().softmax(1).cpu()
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(1).to(logits.device)


def check_classes(target: Int[Tensor, " batch"], classes: int, ids: Sequence[str]) -> None:
    """Labels must name one of the model's outputs."""
    wrong = ((target < 0) | (target >= classes)).nonzero()
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"Example {ids[first]} has label {int(target[first])}; the model has {classes} classes, "
            f"so labels run from 0 to {classes - 1}. Correct the label or the model."
        )


def check_output(output: object, batch: int) -> Tensor:
    """The module must return one tensor with the examples first."""
    if not isinstance(output, Tensor) or output.shape[:1] != (batch,):
        got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise ModelError(
            f"The module returned {got} for a batch of {batch} examples; a tensor with the examples first was "
            "expected. Wrap the module, or give a task with your own loss function (assay.tasks.Custom)."
        )
    return output


def aimed(measurement: Measurement, target: Int[Tensor, "..."], find: Callable[[str], int]) -> Int[Tensor, "..."]:
    """The targets, or the token that the measurement names instead, looked up by `find`."""
    inner = measurement.inner if isinstance(measurement, Negated) else measurement
    if not isinstance(inner, LogOdds) or inner.token == OWN:
        return target
    return torch.full_like(target, find(inner.token))


def class_number(token: str) -> int:
    """A class by its number."""
    if not token.isdecimal():
        raise MethodError(f"The measurement log-odds:{token} names no class; write its number, such as log-odds:3.")
    return int(token)


def check_class(measurement: Measurement, target: Int[Tensor, "..."], classes: int) -> None:
    """A class that a measurement names must be one of the model's."""
    if len(target) and int(target.max()) >= classes:
        raise MethodError(f"The measurement {measurement.label} names a class, and the model has {classes}, from 0.")
