"""What is measured of an example: a number per example whose gradient a method takes.

A measurement is defined on logits: for each predicted position with logits `z` and target `y`

    Loss    l = logsumexp(z) - z_y                        dl/dz = p - onehot(y),           p = softmax(z)
    Margin  f = z_y - logsumexp(z without y)              df/dz = onehot(y) - softmax(z without y)
    Miss    m = 1 - p_y                                   (value only: -dl/df, TRAK's residual)

and an example's value is the sum or the mean over its predicted positions. `Loss` and `Margin` are tied by
`l = log(1 + exp(-f))` (Park et al. 2023, 2303.14186, eq. 5).

Of a query more can be measured, see `outcomes.py`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

Reduction = Literal["sum", "mean"]


@dataclass(frozen=True)
class Measurement(ABC):
    """A number per predicted position, folded per example by `reduction`."""

    reduction: Reduction = "sum"

    @property
    def label(self) -> str:
        """Its name as an option has it: `loss`, `margin`, `log-odds:cat`."""
        return type(self).__name__.lower()

    @property
    def told(self) -> str:
        """In words, as in "training on it raised ..."."""
        return f"the query's {self.label}"

    @abstractmethod
    def of_logits(self, logits: Float[Tensor, "n c"], target: Shaped[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """Value at each position, differentiable, in the precision of `logits`."""

    def with_gradient(
        self, logits: Float[Tensor, "n c"], target: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n c"]]:
        """Value and its gradient by `logits`; `logits` may be overwritten."""
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            value = self.of_logits(leaf, target)
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), gradient


@dataclass(frozen=True)
class Loss(Measurement):
    """Cross-entropy (or the task's own loss), in nats."""

    def of_logits(self, logits: Float[Tensor, "n c"], target: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """`logsumexp(z) - z_y`."""
        return torch.nn.functional.cross_entropy(logits, target, reduction="none")

    def with_gradient(
        self, logits: Float[Tensor, "n c"], target: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n c"]]:
        """Closed form, in place: `softmax(z) - onehot(y)` takes the memory of `logits`."""
        chosen = logits.gather(1, target[:, None])
        top = logits.amax(1, keepdim=True)
        logits.sub_(top).exp_()
        total = logits.sum(1, keepdim=True)
        logits.div_(total)
        logits.scatter_add_(1, target[:, None], torch.full_like(chosen, -1.0))
        return (total.log() + top - chosen).squeeze(1), logits


@dataclass(frozen=True)
class Margin(Measurement):
    """Log-odds of the target; for a regression the model's output itself."""

    def of_logits(self, logits: Float[Tensor, "n c"], target: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """`z_y - logsumexp(z without y)`."""
        others = logits.scatter(1, target[:, None], float("-inf"))
        return logits.gather(1, target[:, None]).squeeze(1) - others.logsumexp(1)


@dataclass(frozen=True)
class Miss(Measurement):
    """Probability that the model gives to anything but the target; for a regression `y - output`."""

    reduction: Reduction = "mean"

    def of_logits(self, logits: Float[Tensor, "n c"], target: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """`1 - softmax(z)_y`."""
        return 1.0 - logits.softmax(1).gather(1, target[:, None]).squeeze(1)
