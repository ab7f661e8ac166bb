"""One optimiser step, linearised: how cotangents of what it gives become cotangents of what it was given.

A step (theta', m') = U(theta, m, g) works number by number, so its Jacobian is a handful of diagonals, one for each pair
of output and input, whatever the number of cotangents pulled through it. Clipping couples the numbers of g; it comes
before and is pulled back on its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from assay.training import Update
from assay.training.optimizers import Flat, Moments, clipped

Slope = Flat | float
"""The diagonal of one block of the Jacobian; a number where all are equal."""

Cotangents = Mapping[str, Float[Tensor, "q params"]]
"""Of the parameters (`params`) and of each moment by name; one row a query."""


@dataclass(frozen=True)
class Linearised:
    """The Jacobian of one step: `slopes[input][output]`, blocks that vanish left out.

    `clip` is (the gradient before clipping, the same after it as a graph), if it is clipped.
    """

    slopes: dict[str, dict[str, Slope]] = field(repr=False)
    clip: tuple[Flat, Flat] | None = field(repr=False)

    @staticmethod
    def of(update: Update, params: Flat, moments: Moments, gradient: Flat, step: int) -> "Linearised":
        """Of step `step`, counted from 0, at this state and this gradient (before clipping)."""
        with torch.enable_grad():
            clip = None
            if update.clip is not None:
                raw = gradient.detach().requires_grad_()
                clip = (raw, clipped(raw, update.clip))
                gradient = clip[1]
            given = {"params": params, **moments, "gradient": gradient}
            inputs = {name: tensor.detach().requires_grad_() for name, tensor in given.items()}
            held = {name: inputs[name] for name in moments}
            after, kept = update.optimizer.update(
                inputs["params"], held, inputs["gradient"], update.rates[step], step + 1
            )
            slopes: dict[str, dict[str, Slope]] = {name: {} for name in inputs}
            for output, value in {"params": after, **kept}.items():
                found = torch.autograd.grad(value.sum(), list(inputs.values()), retain_graph=True, allow_unused=True)
                diagonals = cast(Sequence[Tensor | None], found)
                for name, diagonal in zip(inputs, diagonals, strict=True):
                    if diagonal is not None:
                        slopes[name][output] = _slope(diagonal)
        return Linearised(slopes, clip)

    def pull(self, cotangents: Cotangents) -> Float[Tensor, "q params"]:
        """Turn cotangents of the new state into those of the old one, in place; returns those of the gradient."""
        mu = _combined(self.slopes["gradient"], cotangents)
        later = dict.fromkeys(["params", *(name for name in cotangents if name != "params")])
        computed: dict[str, Tensor] = {}
        for name in reversed(list(later)):  # moments first: of most optimisers nobody reads theirs afterwards
            del later[name]
            if any(name in self.slopes[other] for other in later):
                computed[name] = _combined(self.slopes[name], cotangents)
            else:
                _combine_into(cotangents[name], name, self.slopes[name], cotangents)
        for name, value in computed.items():
            cotangents[name].copy_(value)
        return mu if self.clip is None else self._unclip(mu)

    def _unclip(self, mu: Float[Tensor, "q params"]) -> Float[Tensor, "q params"]:
        raw, short = cast(tuple[Tensor, Tensor], self.clip)
        (pulled,) = torch.autograd.grad(short, raw, mu, retain_graph=True, is_grads_batched=True)
        return pulled


def _slope(diagonal: Flat) -> Slope:
    low, high = torch.aminmax(diagonal)
    return float(low) if bool(low == high) else diagonal


def _combined(slopes: Mapping[str, Slope], cotangents: Cotangents) -> Float[Tensor, "q params"]:
    """`sum over outputs of slope * cotangent`, in a tensor of its own."""
    (first, slope), *others = slopes.items()
    total = cotangents[first] * slope
    for output, slope in others:
        _add(total, cotangents[output], slope)
    return total


def _combine_into(
    total: Float[Tensor, "q params"], own: str, slopes: Mapping[str, Slope], cotangents: Cotangents
) -> None:
    """The same, written over the cotangent of the output `own`."""
    slope = slopes.get(own, 0.0)
    if isinstance(slope, Tensor) or slope != 1.0:
        total.mul_(slope)
    for output, slope in slopes.items():
        if output != own:
            _add(total, cotangents[output], slope)


def _add(total: Float[Tensor, "q params"], cotangent: Float[Tensor, "q params"], slope: Slope) -> None:
    if isinstance(slope, Tensor):
        total.addcmul_(cotangent, slope)
    else:
        total.add_(cotangent, alpha=slope)
