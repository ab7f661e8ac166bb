"""What training by a recipe gives back: the model, its checkpoints, the optimiser's memory, the learning curve."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.errors import MethodError
from assay.models import Checkpoint, Model
from assay.moments import AdamMoments
from assay.tasks import Loss, Measurement
from assay.training.data import Order, encode
from assay.training.optimizers import SGD, Adam, Update
from assay.training.state import Layout, State, module_state
from assay.training.steps import Steps

EVALUATED_AT_ONCE = 256


@dataclass(frozen=True)
class Run:
    """One training run.

    Args:
        model: the trained model in evaluation mode, with its checkpoints. A checkpoint's rate is the learning rate of
            the step that led to it: of SGD the factor on the gradient, of Adam the factor on a normalised one, which is
            something else (see `moment`).
        losses: at each step the mean loss of the batch's examples whose weight is not 0, before the update (NaN where
            all weights are 0). float64.
        rates: the learning rate of each step. float64.
        states: the whole state at each checkpoint, optimiser included; the last is the end.
        layout: how the flat vectors of a state divide into parameters.
        seconds: time spent training, interrupted attempts included.
        update, order, weights, measurement: the update rule, which examples each step saw, their weights, their loss.
        initial: makes the module as it was before the first step, where that is known.
    """

    model: Model
    losses: Float[Tensor, " steps"] = field(repr=False)
    rates: Float[Tensor, " steps"] = field(repr=False)
    states: tuple[State, ...] = field(repr=False)
    layout: Layout = field(repr=False)
    seconds: float
    update: Update = field(repr=False)
    order: Order = field(repr=False)
    weights: Float[Tensor, " n"] = field(repr=False)
    measurement: Measurement = field(repr=False)
    initial: Callable[[], nn.Module] | None = field(default=None, repr=False)

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The model's checkpoints, earliest first; the last is the end."""
        return self.model.checkpoints

    def moment(self, name: str, checkpoint: int = -1) -> dict[str, Tensor]:
        """What the optimiser remembered at a checkpoint, by parameter name.

        Of Adam and AdamW: `"first"` and `"second"`, the running averages of the gradient and its square *without* bias
        correction (divide by `1 - beta^t` with t = `states[checkpoint].step`). Of SGD with momentum: `"momentum"`.

        Raises MethodError: the optimiser has no such moment.
        """
        moments = self.states[checkpoint].moments
        if name not in moments:
            known = f"it remembers {', '.join(moments)}" if moments else "it remembers nothing (SGD without momentum)"
            raise MethodError(f"This run's optimiser has no moment '{name}': {known}. Train with the optimiser needed.")
        return self.layout.split(moments[name])

    def loss_of(self, queries: Any, measurement: Measurement | None = None) -> Float[Tensor, " n"]:
        """The trained model's loss on each query, on the CPU; mean over its tokens unless `measurement` says otherwise.

        `queries`: examples, or examples encoded by the recipe.
        """
        data, device = encode(queries, self.model.task), self.model.device
        measurement = measurement or Loss("mean")
        with torch.no_grad():
            parts = [
                self.model.task.measure(self.model.module, data.batch(rows, device), measurement).cpu()
                for rows in torch.split(torch.arange(len(data)), EVALUATED_AT_ONCE)
            ]
        return torch.cat(parts)


def assemble(steps: Steps, states: tuple[State, ...], losses: list[float], seconds: float) -> Run:
    """The run that went through these states; takes over the steps' module."""
    module, rates = steps.module, steps.update.rates
    steps.restore(states[-1])
    module.eval()
    optimizer = steps.update.optimizer
    checkpoints = [
        Checkpoint.of_state(
            state.name,
            rates[state.step - 1],
            module,
            module_state(module, steps.layout, state),
            partial(_adam, state, steps.layout, optimizer) if isinstance(optimizer, Adam) else None,
        )
        for state in states
    ]
    return Run(
        Model(module, steps.data.task, checkpoints=checkpoints, path=_path(steps.update)),
        torch.tensor(losses, dtype=torch.float64),
        torch.tensor(rates, dtype=torch.float64),
        states,
        steps.layout,
        seconds,
        steps.update,
        steps.order,
        steps.weights.cpu(),
        steps.measurement,
    )


def _adam(state: State, layout: Layout, optimizer: Adam) -> AdamMoments:
    """What Adam remembered in that state."""
    first, second = (layout.split(state.moments[name]) for name in ("first", "second"))
    return AdamMoments(first, second, state.step, optimizer.betas, optimizer.eps)


def _path(update: Update) -> float | None:
    """Sum of the rates, each momentum-weighted step counted whole; None for optimisers that rescale the gradient."""
    if not isinstance(update.optimizer, SGD) or update.clip is not None:
        return None
    return sum(update.rates) / (1.0 - update.optimizer.momentum)
