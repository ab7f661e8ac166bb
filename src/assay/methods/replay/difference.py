"""Second derivatives of a step's objective by difference quotients of its gradient: what a training step costs, a query.

    (d/dtheta) < g, mu >  ~  (g(theta + e mu) - g(theta)) / e,      < grad L_i, mu >  ~  (L_i(theta + e mu) - L_i(theta)) / e

One gradient of the step a query, of any module, by whatever kernels training runs; nothing needs a second derivative. Half the
products of the exact form, for layers behind the first. e is the usual balance of rounding and curvature (Andrei 2009,
Optim. Methods Softw. 24, 1), `2 sqrt(eps) (1 + |theta|) / |mu|`: an error of about 1e-7 in float64, 1e-3 in float32.
"""

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from assay.training import State, Steps
from assay.training.optimizers import Flat
from assay.training.randomness import forked

linalg: Any = torch.linalg  # its functions carry no types


@dataclass(frozen=True)
class Point:
    """A step's losses and gradient at some parameters; `held`: numbers that looking from there takes, of a query."""

    state: State
    losses: Float[Tensor, " batch"] = field(repr=False)
    gradient: Flat = field(repr=False)

    @property
    def held(self) -> int:
        """Queries go one by one, so that only their adjoints count."""
        return len(self.gradient)

    @staticmethod
    def at(steps: Steps, state: State, params: Flat) -> "Point":
        """Of step `state.step`, at these parameters."""
        steps.install(params)
        with torch.enable_grad():
            losses, weights = steps.losses(state.step)
            objective = steps.objective(losses, weights)
            pieces = torch.autograd.grad(objective, steps.trainable, allow_unused=True, materialize_grads=True)
        return Point(state, losses.detach(), steps.layout.join(pieces))


class Difference:
    """Products by difference quotients, query by query."""

    setting = staticmethod(forked)

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.batched: bool | None = None

    def look(self, state: State) -> Point:
        """The step as it was taken."""
        return Point.at(self.steps, state, state.params)

    def pull(
        self, point: Point, mu: Float[Tensor, "q params"], into: Float[Tensor, "q params"]
    ) -> Float[Tensor, "q batch"]:
        """Adds `d < g, mu > / d(parameters)` to `into`; returns that by the weights."""
        state, found = point.state, mu.new_zeros(len(mu), len(point.losses))
        reach = 2 * torch.finfo(mu.dtype).eps ** 0.5 * (1 + float(linalg.vector_norm(state.params)))
        for q, length in enumerate(cast(list[float], linalg.vector_norm(mu, dim=1).tolist())):
            if length == 0:
                continue
            e = reach / length
            there = Point.at(self.steps, state, state.params.add(mu[q], alpha=e))
            into[q].add_(there.gradient.sub_(point.gradient), alpha=1 / e)
            found[q] = (there.losses - point.losses) / (e * self.steps.order.size)
        return found
