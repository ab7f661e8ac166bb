"""What a utility sees of the training examples: their labels and distances, from near to far."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor


@dataclass(frozen=True)
class Near:
    """For each of q queries the n training examples, nearest first.

    `gain`: 1 where the label is the query's, else 0; of a regression the target. `target`: of the queries, for a
    regression. `distance` is there for utilities that look at it; `radius`: what counts as near, for a threshold.
    """

    gain: Float64[Tensor, "q n"]
    distance: Float[Tensor, "q n"] | None
    target: Float64[Tensor, " q"]
    classes: int
    radius: float = float("inf")

    def ranks(self, last: int) -> Float64[Tensor, " last"]:
        """1 ... last."""
        return torch.arange(1, last + 1, dtype=torch.float64, device=self.gain.device)


Solver = Callable[[Near, int], Tensor]
"""(near, K) -> Shapley values, float64 [q, n], of the examples in the order of `near`."""


def from_steps(step: Float64[Tensor, "q steps"], last: Float64[Tensor, " q"]) -> Float64[Tensor, "q n"]:
    """Values from those of the furthest example, `last`, and the steps phi_j - phi_(j+1)."""
    sums = step.cumsum(1)
    total = sums[:, -1:] if step.shape[1] else last.new_zeros(len(last), 1)
    return torch.cat([(total - sums).add_(step).add_(last[:, None]), last[:, None]], 1)


@dataclass(frozen=True)
class Shares:
    """share_1 ... share_n of the steps, the last of them 0, and by how much each exceeds the one before."""

    share: Float64[Tensor, " n"]
    rise: Float64[Tensor, " n"]

    @classmethod
    def of(cls, share: Float64[Tensor, " steps"]) -> "Shares":
        """From those of the first n - 1."""
        share = torch.cat([share, share.new_zeros(1)])
        return cls(share, share.diff(prepend=share[:1]))


def from_shares(gain: Float64[Tensor, "q n"], shares: Shares, last: Float64[Tensor, " q"]) -> Float64[Tensor, "q n"]:
    """Values whose steps phi_j - phi_(j+1) are (s_j - s_(j+1)) share_j; s_j the gains, `last` the furthest example's value.

    Summed by parts, phi_j = s_j share_j + sum_{l>j} s_l (share_l - share_(l-1)) + last: fewer passes over memory.
    """
    sums = gain * shares.rise
    torch.cumsum(sums, 1, out=sums)
    return (gain * shares.share).sub_(sums).add_((sums[:, -1] + last)[:, None])


def harmonic(first: int, last: int) -> float:
    """1/first + ... + 1/last."""
    return sum(1.0 / l for l in range(first, last + 1))
