"""Replay index: replay a basis of query gradients once, then answer any query by an inner product.

The derivative is linear in the gradient it starts from: with T_w the map of replay, tau(g) = T_w g. So r orthonormal directions
D [r, P] are replayed as one batch, F = T_w D^T [n, r] is kept, and a new query is projected on them, g ~ D^T c with c = D g:

    score(i, q) = -< F_i, c >                       (plus for another measurement than the loss)

D are the leading right singular vectors of a sample's gradients G [s, P], each of them first made of length one (`unit`): the few
queries with a large loss would otherwise take most directions for themselves (`plain`). A query's part outside the span is
lost; how much is told. Ours; replay as in Ilyas & Engstrom 2025 (2504.16430). Tried and worse: directions, or coordinates,
that are best for what influence functions at the end of training predict of the training examples.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Float64
from torch import Tensor

linalg: Any = torch.linalg  # its functions carry no types

SMALLEST = 1e-10
"""Share of the largest singular value below which a direction is rounding (squares of float32 have 1e-14)."""


def principal(gradients: Float[Tensor, "s params"], rank: int) -> Float[Tensor, "r params"]:
    """The `rank` leading right singular vectors, orthonormal; fewer if the sample spans fewer."""
    gram = (gradients @ gradients.T).double()
    values, vectors = cast(tuple[Tensor, Tensor], linalg.eigh(gram))
    kept = min(rank, int((values > SMALLEST * values[-1]).sum()))
    weights = vectors[:, len(values) - kept :].flip(1) / values[len(values) - kept :].flip(0).sqrt()
    return weights.T.to(gradients.dtype) @ gradients


def unit(gradients: Float[Tensor, "s params"]) -> Float[Tensor, "s params"]:
    """Each of length one; a zero stays."""
    return gradients / gradients.square().sum(1, keepdim=True).sqrt().clamp_min(torch.finfo(gradients.dtype).tiny)


def captured(gradients: Float[Tensor, "q params"], coordinates: Float[Tensor, "q r"]) -> Float64[Tensor, " q"]:
    """The share of each query's squared length that lies in the span, 0 to 1; 1 for a zero, which loses nothing."""
    inside, whole = coordinates.double().square().sum(1), gradients.double().square().sum(1)
    return torch.where(whole > 0, inside / whole.clamp_min(1e-300), 1.0).clamp(0.0, 1.0)


def correlation(one: Float64[Tensor, "n q"], other: Float64[Tensor, "n q"]) -> Sequence[float]:
    """Pearson's, column by column; 0 where one is constant."""
    a, b = one - one.mean(0), other - other.mean(0)
    scale = (a.square().sum(0) * b.square().sum(0)).sqrt()
    return cast(list[float], torch.where(scale > 0, (a * b).sum(0) / scale.clamp_min(1e-300), 0.0).tolist())
