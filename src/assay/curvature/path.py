"""A training run in segments, over each of which curvature and gradients count as constant.

Removing example i at weight w_i moves the parameters along the run by a linear recursion; for gradient descent

    delta_{t+1} = (I - r_t P (H + decay)) delta_t - r_t P g_i / N  (per unit of w_i, in expectation over batches)

so that over a segment of steps with `e = sum r_t` and constant H, P (in the coordinates `P^-1/2 delta`, symmetric)

    forget  F = exp(-e Ht),     learn  E = (I - exp(-e Ht)) Ht^-1,       Ht = P^1/2 (H + decay) P^1/2

(Bae et al. 2024, 2405.12186, eq. 12 to 15). Walking a query back, `u <- F u` from the last segment to the first, gives
the direction `E u` that training gradients of each segment are multiplied with.

What each optimiser contributes:
- SGD: P = I. Momentum m multiplies the rate by 1/(1 - m), the sum of its echo.
- Adam: P = 1/(sqrt(vhat) + eps) at the segment's checkpoints; that v itself depends on the examples is left out.
- AdamW: the same, its decay acting on the coordinates themselves: Ht = P^1/2 H P^1/2 + decay.
- A short last batch keeps the divisor of a full one: steps count by how full the epoch's batches are on average.
- An example learns at its visits: a segment that is not whole epochs saw some oftener than others (`visits`).
- A run at weights w has the curvature of J = (1/N) sum w_i L_i: H times the mean weight, from rows of weight above 0.

Coordinates whose second moment is 0 never moved (P = 0), and a query's component there stays as it is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from assay.curvature.gauss_newton import Product
from assay.gradients.blocks import Block, to_vectors
from assay.training import SGD, Adam, AdamW, Run


@dataclass(frozen=True)
class Segment:
    """Steps between two moments of the run.

    Args:
        checkpoints: positions in `run.checkpoints` that stand for it.
        rate: `e`, the rates of its steps summed, momentum and filling of batches included.
        root: `P^1/2` in the order of the blocks; None: ones.
        inner, outer: weight decay inside `P^1/2 ( ) P^1/2`, and outside.
        weight: mean weight of the examples in the run.
        visits: rates of the steps that saw each example, summed, over their mean: 1 where a segment is whole epochs.
    """

    checkpoints: tuple[int, ...]
    rate: float
    root: Float[Tensor, " params"] | None
    inner: float
    outer: float
    weight: float
    visits: Float64[Tensor, " n"]

    def enter(self, u: Float[Tensor, "q params"]) -> Float[Tensor, "q params"]:
        """A query's direction in the segment's coordinates: `P^1/2 u`."""
        return u if self.root is None else u * self.root

    def leave(self, before: Float[Tensor, "q params"], u: Float[Tensor, "q params"]) -> Float[Tensor, "q params"]:
        """Back, `P^-1/2 u`; where nothing moved, what was `before`."""
        if self.root is None:
            return u
        still = self.root == 0
        return torch.where(still, before * math.exp(-self.rate * self.outer), u / self.root.masked_fill(still, 1.0))

    def curvature(self, product: Product) -> Product:
        """`Ht` as a product, from products with H of the loss alone."""

        def apply(v: Float[Tensor, "q params"]) -> Float[Tensor, "q params"]:
            moved = self.enter(v)
            return self.enter(self.weight * product(moved) + self.inner * moved) + self.outer * v

        return apply

    def forget(self, s: Float64[Tensor, "..."]) -> Float64[Tensor, "..."]:
        """`exp(-e s)` of eigenvalues; those below 0 are rounding."""
        return torch.exp(-self.rate * s.clamp(min=0))

    def learn(self, s: Float64[Tensor, "..."]) -> Float64[Tensor, "..."]:
        """`(1 - exp(-e s)) / s`, which is e at s = 0."""
        s = s.clamp(min=0)
        small = self.rate * s < 1e-8  # there the quotient is e to the last digit but not a number at 0
        return torch.where(small, self.rate, -torch.expm1(-self.rate * s) / torch.where(small, 1.0, s))


def segments(run: Run, blocks: Sequence[Block], count: int, inside: slice = slice(None)) -> list[Segment]:
    """The run's checkpoints in `count` groups of equal size, a segment each, from the first step to the last.

    `inside`: which of a group's checkpoints stand for the segment (its end always being the last one's step).
    """
    size = len(run.states) // count
    ends = [run.states[size * (k + 1) - 1].step for k in range(count)]
    starts = [0, *ends[:-1]]
    momentum = run.update.optimizer.momentum if isinstance(run.update.optimizer, SGD) else 0.0
    fill = run.order.n / (run.order.size * run.order.per_epoch)
    found: list[Segment] = []
    for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
        checkpoints = tuple(range(size * k, size * (k + 1)))[inside]
        rate = float(run.rates[start:end].sum()) * fill / (1 - momentum)
        decay = getattr(run.update.optimizer, "weight_decay", 0.0) / fill
        outer = isinstance(run.update.optimizer, AdamW)
        found.append(
            Segment(
                checkpoints,
                rate,
                _root(run, blocks, checkpoints),
                0.0 if outer else decay,
                decay if outer else 0.0,
                float(run.weights.mean()),
                _visits(run, start, end),
            )
        )
    return found


def _visits(run: Run, start: int, end: int) -> Float64[Tensor, " n"]:
    seen = torch.zeros(run.order.n, dtype=torch.float64)
    for step in range(start, end):
        seen[run.order.rows(step)] += run.rates[step]
    return seen / seen.mean() if bool(seen.any()) else torch.ones_like(seen)


def _root(run: Run, blocks: Sequence[Block], checkpoints: Sequence[int]) -> Float[Tensor, " params"] | None:
    """`P^1/2` of Adam, P being the mean over the checkpoints."""
    optimizer = run.update.optimizer
    if not isinstance(optimizer, Adam):
        return None
    total: Tensor | None = None
    for number in checkpoints:
        second = to_vectors(blocks, {name: t[None] for name, t in run.moment("second", number).items()})[0]
        scale = (second / (1 - optimizer.betas[1] ** run.states[number].step)).sqrt() + optimizer.eps
        P = torch.where(second > 0, 1.0 / scale, 0.0)
        total = P if total is None else total + P
    assert total is not None
    return (total / len(checkpoints)).sqrt()
