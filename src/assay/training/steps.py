"""The steps of a run: the gradient at each, on a module of its own.

Step t takes the rows I_t of its epoch's order and the objective

    J_t = (1 / size) * sum over i in I_t of  w_i * L_i

whose divisor is the batch size, fixed: a row keeps its pull when others are left out, and in a short last batch. An
example of weight 0 takes part in the forward pass and gets the gradient 0, so the others' numbers do not move.
Dropout draws from a stream that depends on seed and step alone.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.errors import ModelError, NonFiniteError
from assay.tasks import Measurement
from assay.training.data import Encoded, Order
from assay.training.optimizers import Flat, Update
from assay.training.randomness import set_noise
from assay.training.state import Layout, State


class Steps:
    """A recipe on given examples and weights, step by step; `module` is its own and lies in training mode."""

    def __init__(
        self,
        module: nn.Module,
        measurement: Measurement,
        data: Encoded,
        weights: Float[Tensor, " n"],
        order: Order,
        update: Update,
    ) -> None:
        self.module, self.measurement, self.data, self.order, self.update = module, measurement, data, order, update
        self.layout = Layout.of(module)
        self.trainable = [p for p in module.parameters() if p.requires_grad]
        self.device = self.trainable[0].device
        self.weights = weights.to(self.device)
        module.train()

    def __len__(self) -> int:
        return self.order.total

    def start(self) -> State:
        """The state before the first step, at the module's present parameters."""
        params = self.layout.join([p.detach() for p in self.trainable])
        return State(0, params, self.update.optimizer.start(params), self.buffers())

    def buffers(self) -> dict[str, Tensor]:
        """A copy of the module's buffers."""
        return {name: buffer.detach().clone() for name, buffer in self.module.named_buffers()}

    def install(self, params: Flat) -> None:
        """Give the module these parameters."""
        with torch.no_grad():
            for parameter, piece in zip(self.trainable, self.layout.split(params).values(), strict=True):
                parameter.copy_(piece)

    def restore(self, state: State) -> None:
        """Give the module the parameters and buffers of a state."""
        self.install(state.params)
        with torch.no_grad():
            for name, buffer in self.module.named_buffers():
                buffer.copy_(state.buffers[name])

    def losses(self, step: int) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """Loss and weight of each example of a step at the module's present parameters, differentiable.

        Sets torch's global seed, so run it inside `randomness.forked()`. Raises NonFiniteError.
        """
        rows = self.order.rows(step)
        batch = self.data.batch(rows, self.device)
        set_noise(self.order.seed, step)
        losses = self.data.task.measure(self.module, batch, self.measurement)
        check_finite(losses, batch.ids, step)
        return losses, self.weights[rows.to(self.device)].to(losses.dtype)

    def objective(self, losses: Float[Tensor, " batch"], weights: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
        """`(1 / size) * sum of w_i * L_i`."""
        return (weights * losses).sum() / self.order.size

    def gradient(self, params: Flat, step: int) -> tuple[Flat, float]:
        """Gradient of the step's objective, and the mean loss over its examples of weight other than 0 (NaN: none)."""
        self.install(params)
        with torch.enable_grad():
            losses, weights = self.losses(step)
            if not losses.requires_grad:
                raise ModelError(
                    f"The loss of {type(self.module).__name__} does not depend on its trainable parameters; check the "
                    "task, and that forward neither detaches nor runs without gradients."
                )
            pieces = torch.autograd.grad(
                self.objective(losses, weights), self.trainable, allow_unused=True, materialize_grads=True
            )
        return self.layout.join(pieces), float(losses.detach()[weights != 0].mean())


def check_finite(losses: Float[Tensor, " batch"], ids: Sequence[str], step: int) -> None:
    """Raises NonFiniteError that names the step and the first example whose loss is NaN or infinite."""
    wrong = ~losses.detach().isfinite()
    if not bool(wrong.any()):
        return
    first = int(wrong.nonzero()[0])
    value = float(losses.detach()[first])
    if bool(wrong.all()) and step:
        raise NonFiniteError(
            f"The loss became {value} at step {step} (example {ids[first]} and all others of its batch): training "
            "diverged. Lower the learning rate, add warmup, or clip the gradient (clip=1.0)."
        )
    raise NonFiniteError(
        f"The loss of example {ids[first]} is {value} at step {step}; a finite number was expected. "
        "Look at that example, or lower the learning rate."
    )
