"""What is measured of an example: a number per example whose gradient a method takes.

A measurement is defined on logits: for each predicted position with logits `z` and target `y`

    Loss    l = logsumexp(z) - z_y                        dl/dz = p - onehot(y),           p = softmax(z)
    Margin  f = z_y - logsumexp(z without y)              df/dz = onehot(y) - softmax(z without y)
    Miss    m = 1 - p_y                                   (value only: -dl/df, TRAK's residual)
    Sampled l with y ~ p in place of the target           dl/dz = p - onehot(y): E[g g^T] is the Fisher matrix

and an example's value is the sum or the mean over its predicted positions. `Loss` and `Margin` are tied by
`l = log(1 + exp(-f))` (Park et al. 2023, 2303.14186, eq. 5).

Of a query more can be measured, see `outcomes.py`.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

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

    def aim(
        self, target: Int[Tensor, "n ..."], example: Int[Tensor, " n"], ids: Sequence[str]
    ) -> Shaped[Tensor, "n ..."]:
        """What takes the place of the `target` of each position; `example`, ascending, is its place among `ids`."""
        return target

    def share(self, count: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """What each position of an example with `count` predicted positions counts."""
        return torch.ones_like(count) if self.reduction == "sum" else 1.0 / count

    @abstractmethod
    def of_logits(self, logits: Float[Tensor, "n c"], target: Shaped[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """Value at each position, differentiable, in the precision of `logits`; `target` as `aim` gave it."""

    def with_gradient(
        self, logits: Float[Tensor, "n c"], target: Shaped[Tensor, " n"]
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

    def of_logits(self, logits: Float[Tensor, "n c"], target: Shaped[Tensor, " n"]) -> Float[Tensor, " n"]:
        """`logsumexp(z) - z_y`."""
        return torch.nn.functional.cross_entropy(logits, target, reduction="none")

    def with_gradient(
        self, logits: Float[Tensor, "n c"], target: Shaped[Tensor, " n"]
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

    def of_logits(self, logits: Float[Tensor, "n c"], target: Shaped[Tensor, " n"]) -> Float[Tensor, " n"]:
        """`z_y - logsumexp(z without y)`."""
        others = logits.scatter(1, target[:, None], float("-inf"))
        return logits.gather(1, target[:, None]).squeeze(1) - others.logsumexp(1)


@dataclass(frozen=True)
class Miss(Measurement):
    """Probability that the model gives to anything but the target; for a regression `y - output`."""

    reduction: Reduction = "mean"

    def of_logits(self, logits: Float[Tensor, "n c"], target: Shaped[Tensor, " n"]) -> Float[Tensor, " n"]:
        """`1 - softmax(z)_y`."""
        return 1.0 - logits.softmax(1).gather(1, target[:, None]).squeeze(1)


@dataclass(frozen=True)
class Sampled(Measurement):
    """The loss at a target drawn from the model's own prediction, in the very pass that gives the gradient.

    Over all draws the mean of `g g^T` is the Fisher matrix of the loss, which for these losses is the Gauss-Newton
    matrix; the true target instead gives the empirical Fisher, another matrix. Positions are drawn independently, so
    the cross terms of a sum over positions vanish; for a loss that is a mean over `n` positions each gradient counts
    `1/sqrt(n)`, so that `E g g^T` is the mean of the positions' matrices.

    A draw depends on the seed, the example's id and the position among those predicted: not on the batch or device.
    """

    seed: int = 0

    def aim(self, target: Int[Tensor, "n ..."], example: Int[Tensor, " n"], ids: Sequence[str]) -> Shaped[Tensor, " n"]:
        """A uniform number in [0, 1) for each position, float64, by which `of_logits` draws."""
        counts = cast(list[int], torch.bincount(example, minlength=len(ids)).tolist())
        draws = [
            torch.rand(count, generator=generator(self.seed, "label", id), dtype=torch.float64)
            for id, count in zip(ids, counts, strict=True)
        ]
        return torch.cat(draws).to(target.device)

    def share(self, count: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """1, or `1/sqrt(count)` for a mean."""
        return torch.ones_like(count) if self.reduction == "sum" else count.rsqrt()

    def noise(self, size: int, ids: Sequence[str]) -> Float[Tensor, "batch size"]:
        """`size` standard normal numbers an example, float64 on the CPU, for a Gaussian prediction."""
        rows = [torch.randn(size, generator=generator(self.seed, "label", id), dtype=torch.float64) for id in ids]
        return torch.stack(rows)

    def of_logits(self, logits: Float[Tensor, "n c"], target: Shaped[Tensor, " n"]) -> Float[Tensor, " n"]:
        """`logsumexp(z) - z_y`, `y` the class at quantile `target` of `softmax(z)`."""
        y = drawn(logits.detach().softmax(1), target)
        return torch.nn.functional.cross_entropy(logits, y, reduction="none")

    def with_gradient(
        self, logits: Float[Tensor, "n c"], target: Shaped[Tensor, " n"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n c"]]:
        """In place, like the loss; the draw reads the probabilities that the gradient needs anyway."""
        top = logits.amax(1, keepdim=True)
        logits.sub_(top).exp_()
        logits.div_(logits.sum(1, keepdim=True))
        y = drawn(logits, target)[:, None]
        value = -logits.gather(1, y).clamp(min=torch.finfo(logits.dtype).tiny).log()
        logits.scatter_add_(1, y, torch.full_like(value, -1.0))
        return value.squeeze(1), logits


GROUP = 128
"""Classes whose probabilities are summed together, so that a draw among many classes reads them once, in order."""


def drawn(probabilities: Float[Tensor, "n c"], quantile: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The class at which the cumulative sum of a row first exceeds `quantile` of the row's total. Groups of classes are
    summed in the precision of the probabilities, sums of groups and the chosen group's classes in float64.
    """
    n, c = probabilities.shape
    whole = c - c % GROUP
    groups = probabilities[:, :whole].reshape(n, -1, GROUP).sum(2).double()
    rest = probabilities[:, whole:].sum(1, keepdim=True, dtype=torch.float64)
    ends = torch.cat([groups, rest], 1).cumsum(1)
    wanted = (quantile.to(ends.dtype) * ends[:, -1])[:, None]
    group = torch.searchsorted(ends, wanted, right=True).clamp(max=ends.shape[1] - 1)
    before = torch.where(group > 0, ends.gather(1, (group - 1).clamp(min=0)), 0.0)
    classes = group * GROUP + torch.arange(GROUP, device=group.device)
    inside = probabilities.gather(1, classes.clamp(max=c - 1)).double() * (classes < c)
    within = torch.searchsorted(inside.cumsum(1), wanted - before, right=True)
    last = (inside > 0).long().mul(torch.arange(1, GROUP + 1, device=group.device)).amax(1, keepdim=True) - 1
    return (group * GROUP + torch.minimum(within, last.clamp(min=0))).clamp(max=c - 1).squeeze(1)


def generator(seed: int, *names: object) -> torch.Generator:
    """A CPU generator whose state depends on the seed and the names only."""
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
