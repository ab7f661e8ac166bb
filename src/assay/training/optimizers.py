"""Optimisers as pure functions: (parameters, moments, gradient, rate, step) -> (parameters, moments).

All trainable parameters are one flat vector, so that an update is a handful of operations whatever the number of
layers, and every function here can be run under automatic differentiation. With gradient g, rate r and step t = 1, 2,

    SGD    g += decay * p;  b = momentum * b + g;                                   p -= r * b
    Adam   g += decay * p;  m, v = averages of g, g^2;                              p -= r * mhat / (sqrt(vhat) + eps)
    AdamW  p *= 1 - r * decay;  m, v = averages of g, g^2;                          p -= r * mhat / (sqrt(vhat) + eps)

with mhat = m / (1 - beta1^t), vhat = v / (1 - beta2^t). Sutskever et al. 2013; Kingma & Ba 2015 (1412.6980, alg. 1);
Loshchilov & Hutter 2019 (1711.05101, alg. 2). Equal to `torch.optim` step by step (tested to 1e-12). Cost: a few
passes over the parameters. One difference: a parameter that the loss does not reach has gradient 0 here, where
`torch.optim` leaves it alone, so weight decay moves it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

Flat = Float[Tensor, " params"]
"""All trainable parameters, or a number for each, as one vector."""

Moments = Mapping[str, Flat]
"""What an optimiser remembers, one vector as long as the parameters each, by name."""


class Optimizer(ABC):
    """An update rule; holds its constants and no state."""

    @property
    @abstractmethod
    def remembers(self) -> tuple[str, ...]:
        """Names of the moments."""

    @abstractmethod
    def update(self, params: Flat, moments: Moments, gradient: Flat, rate: float, step: int) -> tuple[Flat, Moments]:
        """New parameters and moments; `step` counts from 1. Nothing is changed in place.

        Elementwise: each number of the result follows from the same position of the vectors (replay relies on it).
        """

    def start(self, params: Flat) -> Moments:
        """The moments before the first step: zeros."""
        return {name: torch.zeros_like(params) for name in self.remembers}


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent with heavy-ball momentum and L2 weight decay."""

    momentum: float = 0.0
    weight_decay: float = 0.0

    @property
    def remembers(self) -> tuple[str, ...]:
        """The momentum buffer, if there is momentum."""
        return ("momentum",) if self.momentum else ()

    def update(self, params: Flat, moments: Moments, gradient: Flat, rate: float, step: int) -> tuple[Flat, Moments]:
        """`p - r * b`."""
        if self.weight_decay:
            gradient = gradient.add(params, alpha=self.weight_decay)
        if self.momentum:
            gradient = gradient.add(moments["momentum"], alpha=self.momentum)
            moments = {"momentum": gradient}
        return params.add(gradient, alpha=-rate), moments


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam with L2 weight decay, which is scaled like the rest of the gradient."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    @property
    def remembers(self) -> tuple[str, ...]:
        """Averages of the gradient (`first`) and of its square (`second`), without bias correction."""
        return ("first", "second")

    def update(self, params: Flat, moments: Moments, gradient: Flat, rate: float, step: int) -> tuple[Flat, Moments]:
        """`p - r * mhat / (sqrt(vhat) + eps)`."""
        if self.weight_decay:
            gradient = gradient.add(params, alpha=self.weight_decay)
        return self._move(params, moments, gradient, rate, step)

    def _move(self, params: Flat, moments: Moments, gradient: Flat, rate: float, step: int) -> tuple[Flat, Moments]:
        beta1, beta2 = self.betas
        first = moments["first"].lerp(gradient, 1 - beta1)
        second = moments["second"].mul(beta2).addcmul(gradient, gradient, value=1 - beta2)
        # The floor is below what eps lets through, so no value changes. It gives sqrt the derivative 0 at 0, which is
        # right (sqrt(g^2) = |g| meets m = 0 there), where plain autograd would make 0 * infinity of it.
        root = second.clamp_min(torch.finfo(second.dtype).tiny).sqrt()
        scale = root.div(math.sqrt(1 - beta2**step)).add(self.eps)
        return params.addcdiv(first, scale, value=-rate / (1 - beta1**step)), {"first": first, "second": second}


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with weight decay apart from the gradient."""

    def update(self, params: Flat, moments: Moments, gradient: Flat, rate: float, step: int) -> tuple[Flat, Moments]:
        """`(1 - r * decay) * p - r * mhat / (sqrt(vhat) + eps)`."""
        if self.weight_decay:
            params = params.mul(1 - rate * self.weight_decay)
        return self._move(params, moments, gradient, rate, step)


def clipped(gradient: Flat, limit: float) -> Flat:
    """The gradient, shortened to norm `limit` if longer; as `torch.nn.utils.clip_grad_norm_`, its 1e-6 included."""
    norm = cast(Tensor, torch.linalg.vector_norm(gradient))
    return gradient * (limit / (norm + 1e-6)).clamp(max=1.0)


@dataclass(frozen=True)
class Update:
    """One step of a whole run: clip, then the optimiser at that step's rate. A pure function of its arguments."""

    optimizer: Optimizer
    rates: tuple[float, ...]
    clip: float | None = None

    def __call__(self, params: Flat, moments: Moments, gradient: Flat, step: int) -> tuple[Flat, Moments]:
        """Parameters and moments after step `step`, counted from 0."""
        if self.clip is not None:
            gradient = clipped(gradient, self.clip)
        return self.optimizer.update(params, moments, gradient, self.rates[step], step + 1)
