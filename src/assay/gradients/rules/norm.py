"""Normalisations: `y = n(x) * w + b` with `n` free of parameters, so `dl/dw = sum_t d_t * n(x_t)`, `dl/db = sum_t d_t`.

`n(x)` is read off the layer itself, which is affine in `w`: its output at `w = 1` less that at `w = 0`. So the model
library's own RMSNorm classes are covered, those that multiply by `1 + w` included.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from assay.gradients.rules.base import BlockSpec, NotByExample, Whole, precise

_BATCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Norm(Whole):
    """LayerNorm, RMSNorm, GroupNorm, and BatchNorm with its running statistics."""

    def fits(self, module: nn.Module) -> bool:
        """By class or by name; weight and bias must be the only parameters."""
        named = type(module).__name__.endswith(("RMSNorm", "LayerNorm"))
        known = isinstance(module, (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm))
        still = isinstance(module, _BATCH) and module.track_running_stats
        held = dict(module.named_parameters())
        return (named or known or still) and "weight" in held and set(held) <= {"weight", "bias"}

    def blocks(self, module: nn.Module) -> list[BlockSpec]:
        """One column each."""
        return [(key, (p.numel(), 1), (p,)) for key, p in module.named_parameters()]

    def early(self, module: nn.Module, x: Tensor, batch: int) -> Tensor:
        """`n(x)`, by two runs of the layer's own forward with other weights."""
        if x.shape[0] != batch:
            raise NotByExample
        return _run(module, x, 1.0) - _run(module, x, 0.0)

    def gradients(self, module: nn.Module, kept: Tensor, d: Tensor, batch: int) -> dict[str, Tensor]:
        """Sums over everything but the examples and the axes of the weight."""
        if isinstance(module, (nn.GroupNorm, *_BATCH)):
            d, kept = d.movedim(1, -1), kept.movedim(1, -1)
        held = dict(module.named_parameters())
        terms = {"weight": precise(d) * precise(kept), "bias": precise(d)}
        return {key: terms[key].reshape(batch, -1, p.numel()).sum(1)[..., None] for key, p in held.items()}


def _run(module: nn.Module, x: Tensor, weight: float) -> Tensor:
    """The layer's forward with another weight and no bias, past its hooks; on a shallow twin, so the layer stays as it
    is.
    """
    twin = copy.copy(module)
    state: dict[str, Any] = vars(twin)
    state["_parameters"] = dict(state["_parameters"])
    for key, p in module.named_parameters():
        value = torch.full_like(p, weight if key == "weight" else 0.0)
        state["_parameters"][key] = nn.Parameter(value, requires_grad=False)
    with torch.no_grad():
        return twin.forward(x)
