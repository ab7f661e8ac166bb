"""A recipe: how a model is trained, from the initialisation to the last step, so that a run can be repeated exactly,
with other weights on its examples, and differentiated.

Each step of it lowers `(1 / batch_size) * sum over i in the batch of  w_i * L_i`. The same recipe, examples and weights
give the same bits on one machine and number of threads (on a GPU as far as its kernels do; setting torch's
`use_deterministic_algorithms` is up to the user). Cost: that of the plain training loop.
"""

import copy
import hashlib
import math
import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay import progress
from assay.errors import MethodError, ModelError, NonFiniteError, nearest
from assay.models import Model
from assay.tasks import Loss, Task
from assay.tasks.measurements import Reduction
from assay.training.data import Encoded, Order, checked_weights, encode, evenly
from assay.training.observer import After, Observer
from assay.training.optimizers import SGD, Adam, AdamW, Flat, Optimizer, Update
from assay.training.randomness import forked
from assay.training.run import Run, assemble
from assay.training.schedules import SCHEDULES, factors
from assay.training.state import State
from assay.training.steps import Steps
from assay.training.store import Saved, Store

OPTIMIZERS = ("sgd", "adam", "adamw")


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Args:
        make_model: a function that makes the model, called with torch seeded by `seed`; or a module, whose copy is
            the initialisation. All of it trains in training mode; parameters with requires_grad off stay as they are.
        task: what an example's loss is, from `assay.tasks`.
        optimizer: `"sgd"`, `"adam"` or `"adamw"`, as in `torch.optim`.
        lr: the learning rate that the schedule scales.
        epochs: passes over the examples.
        batch_size: examples a step, and the divisor of its loss, also of a short last batch; at most all examples.
        seed: of the initialisation, the order and dropout, each a stream of its own.
        momentum: of SGD.
        weight_decay: L2 penalty of SGD and Adam; AdamW's decay apart from the gradient. On all trainable parameters.
        betas, eps: of Adam and AdamW.
        schedule: `"constant"`, or `"linear"` or `"cosine"` down to 0.
        warmup: share of the steps, 0 to 1, that the rate climbs in.
        clip: longest norm of a step's gradient, over all parameters; None: any.
        checkpoints: how many states are kept, spread evenly over the steps; the last is the end.
        reduction: `"sum"` or `"mean"` of the loss over an example's tokens.

    Raises:
        MethodError: an unknown name, or a number out of its range.
        ModelError: `make_model` is neither a function nor a module.
    """

    make_model: Callable[[], nn.Module] | nn.Module = field(repr=False)
    task: Task
    _: KW_ONLY
    optimizer: str = "adamw"
    lr: float = 1e-3
    epochs: int = 1
    batch_size: int = 32
    seed: int = 0
    momentum: float = 0.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    schedule: str = "constant"
    warmup: float = 0.0
    clip: float | None = None
    checkpoints: int = 1
    reduction: str = "sum"

    def __post_init__(self) -> None:
        _check_names(self)
        _check_numbers(self)

    def train(
        self,
        train: Any,
        weights: Any = None,
        *,
        out: str | os.PathLike[str] | None = None,
        label: str = "training",
        recorder: Observer | None = None,
    ) -> Run:
        """Train on examples (or what `encode` made of them), each with its weight.

        Args:
            train: `Examples`, anything `assay.read` reads, or `Encoded`.
            weights: one finite number an example; 0 leaves it out and keeps every batch as it was. None: 1 for all.
            out: a directory for the checkpoints. A run that was killed goes on from the last one there and ends in the
                same bits; a complete one is returned at once.
            label: what the progress bar says.
            recorder: an `assay.Recorder` that looks at the run; the bits stay the same. A run that goes on from `out` needs
                one with a directory too.

        Raises:
            DataError: examples that do not fit the task. ModelError: a model that cannot be trained.
            MethodError: wrong weights, or `out` holds another run. StorageError: `out` cannot be written.
            NonFiniteError: a loss became NaN or infinite; names step and example.
        """
        data = self.encode(train)
        weights = checked_weights(weights, len(data))
        with forked():
            steps = self.steps(data, weights)
            kept = evenly(len(steps), self.checkpoints)
            store = None if out is None else Store(Path(out), self._identity(data, weights))
            before = [] if store is None else _found(store, kept, steps.device)
            with _observed(steps, before, recorder) as after:
                done = _continue(steps, before, kept, store, label, after)
            if store is not None and not store.finished(kept):
                store.finish(kept)
        run = assemble(steps, tuple(saved.state for saved in done), done[-1].losses, done[-1].seconds)
        return replace(run, initial=self.initial)

    def encode(self, examples: Any) -> Encoded:
        """Examples as the task's tensors, which `train` and `Run.loss_of` take in their place; once for many runs."""
        return encode(examples, self.task)

    def initial(self) -> nn.Module:
        """A new module as it is before the first step."""
        if isinstance(self.make_model, nn.Module):
            return copy.deepcopy(self.make_model)
        with forked():
            torch.manual_seed(self.seed)
            module = cast(object, self.make_model())
        if not isinstance(module, nn.Module):
            raise ModelError(f"make_model returned a {type(module).__name__}; a torch.nn.Module was expected.")
        return module

    def order(self, n: int) -> Order:
        """Which of `n` examples each step sees."""
        return Order(n, min(self.batch_size, n), self.epochs, self.seed)

    def update(self, total: int) -> Update:
        """The update of each of `total` steps, as a pure function."""
        rates = tuple(self.lr * factor for factor in factors(self.schedule, self.warmup, total))
        return Update(self._optimizer(), rates, self.clip)

    def steps(self, train: Any, weights: Any = None) -> Steps:
        """The run as single steps on a module of its own, at the initialisation: what replay differentiates."""
        data = self.encode(train)
        module, order = self.initial(), self.order(len(data))
        self.task.prepare(module)
        loss, update = Loss(cast(Reduction, self.reduction)), self.update(order.total)
        return Steps(module, loss, data, checked_weights(weights, len(data)), order, update)

    def _optimizer(self) -> Optimizer:
        if self.optimizer == "sgd":
            return SGD(self.momentum, self.weight_decay)
        kind = Adam if self.optimizer == "adam" else AdamW
        return kind(self.betas, self.eps, self.weight_decay)

    def facts(self) -> dict[str, Any]:
        """What a run follows from besides the examples and their weights, in terms of JSON."""
        other = ("make_model", "task", "betas")
        return {
            **{entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in other},
            "betas": list(self.betas),
            "initial model": Model(self.initial(), self.task).fingerprint(),
        }

    def _identity(self, data: Encoded, weights: Float[Tensor, " n"]) -> dict[str, Any]:
        """What a run follows from, in terms of JSON."""
        return {
            **self.facts(),
            "examples": data.examples.fingerprint(),
            "weights": hashlib.sha256(weights.numpy().tobytes()).hexdigest(),
        }


@dataclass(frozen=True)
class _Observed:
    """What an observer wants to be called: after each step, and before a checkpoint is written."""

    after: After
    save: Callable[[], None]


def _found(store: Store, kept: Sequence[int], device: torch.device) -> list[Saved]:
    """The checkpoints that are there already, earliest first."""
    store.finished(kept)  # refuses another run's directory, and a complete run that was changed
    last = store.last(kept)
    return [store.read(step, device) for step in kept if step <= last]


@contextmanager
def _observed(steps: Steps, done: Sequence[Saved], observer: Observer | None) -> Generator[_Observed]:
    """What is to be called after each step."""
    if observer is None:
        yield _Observed(lambda step, params: None, lambda: None)
        return
    with observer.watching(steps, done[-1].state.step if done else 0) as after:
        yield _Observed(after, observer.save)


def _continue(
    steps: Steps, done: list[Saved], kept: Sequence[int], store: Store | None, label: str, observed: "_Observed"
) -> list[Saved]:
    """Run the steps behind the last checkpoint of `done`; all checkpoints at the step counts `kept`."""
    start = done[-1] if done else Saved(steps.start(), [], 0.0)
    steps.restore(start.state)
    params, moments, losses = start.state.params, start.state.moments, list(start.losses)
    began, done = time.perf_counter() - start.seconds, list(done)
    with progress.task(label, len(steps)) as advance:
        advance(start.state.step)
        for step in range(start.state.step, len(steps)):
            gradient, loss = steps.gradient(params, step)
            params, moments = steps.update(params, moments, gradient, step)
            losses.append(loss)
            observed.after(step + 1, params)
            advance()
            if step + 1 in kept:
                _check_params(params, step)
                state = State(step + 1, params, moments, steps.buffers())
                done.append(Saved(state, list(losses), time.perf_counter() - began))
                observed.save()
                if store is not None:
                    store.write(done[-1])
    return done


def _check_params(params: Flat, step: int) -> None:
    if not bool(params.isfinite().all()):
        raise NonFiniteError(
            f"The weights became NaN or infinite by step {step}, through a gradient that is not finite. "
            "Lower the learning rate, or clip the gradient (clip=1.0)."
        )


def _check_names(recipe: Recipe) -> None:
    made = cast(object, recipe.make_model)
    if not callable(made):
        raise ModelError(
            f"make_model is a {type(made).__name__}; expected a function that makes a torch.nn.Module, or a module."
        )
    task = cast(object, recipe.task)
    if not isinstance(task, Task):
        raise MethodError(f"task is a {type(task).__name__}; expected one of assay.tasks, such as Classify().")
    for what, name, known in (
        ("optimizer", recipe.optimizer, OPTIMIZERS),
        ("schedule", recipe.schedule, SCHEDULES),
        ("reduction", recipe.reduction, ("sum", "mean")),
    ):
        if name not in known:
            raise MethodError(f"There is no {what} '{name}'. {nearest(str(name), known)}")
    if recipe.momentum and recipe.optimizer != "sgd":
        raise MethodError(f"momentum belongs to sgd and optimizer is {recipe.optimizer}; set betas, or leave it out.")


def _check_numbers(recipe: Recipe) -> None:
    at_least_one = ("epochs", "batch_size", "checkpoints")
    ranges: list[tuple[str, float, bool, str]] = [
        *((name, getattr(recipe, name), getattr(recipe, name) >= 1, "at least 1") for name in at_least_one),
        ("seed", recipe.seed, recipe.seed >= 0, "at least 0"),
        ("lr", recipe.lr, recipe.lr > 0, "a number above 0"),
        ("momentum", recipe.momentum, 0 <= recipe.momentum < 1, "0 or more and below 1"),
        ("weight_decay", recipe.weight_decay, recipe.weight_decay >= 0, "at least 0"),
        *(("betas", beta, 0 <= beta < 1, "0 or more and below 1, both") for beta in recipe.betas),
        ("eps", recipe.eps, recipe.eps > 0, "above 0"),
        ("warmup", recipe.warmup, 0 <= recipe.warmup <= 1, "a share of the steps, 0 to 1"),
        ("clip", recipe.clip or 0.0, recipe.clip is None or recipe.clip > 0, "above 0, or None for no clipping"),
    ]
    for name, value, right, expected in ranges:
        if not right or not math.isfinite(value):
            raise MethodError(f"{name} is {value}; expected {expected}.")
