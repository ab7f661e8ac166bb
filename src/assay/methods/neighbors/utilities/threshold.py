"""U(S) = share of matches among those of S within a radius of the query; 1/C where there is none.

With n examples within the radius, of which the others' share of matches is m,

    phi_i = (s_i - 1/C) / n + (s_i - m) / n  (1/2 + ... + 1/n)        inside,    0 outside

Threshold KNN-Shapley, Wang et al. 2023 (arXiv 2308.15709). Time O(N), nothing is sorted.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from assay.methods.neighbors.utilities.base import Near


def threshold(near: Near, k: int) -> Float64[Tensor, "q n"]:
    """Shapley values, in the order given; `k` does not matter."""
    assert near.distance is not None
    inside, gain = near.distance <= near.radius, near.gain
    count = inside.sum(1, keepdim=True).double()
    matches = (gain * inside).sum(1, keepdim=True)
    others = (matches - gain) / (count - 1).clamp(min=1)
    sums = torch.cat([near.ranks(1).new_zeros(2), (1 / near.ranks(gain.shape[1])[1:]).cumsum(0)])  # 1/2 + ... + 1/n
    first = (gain - 1 / near.classes) / count.clamp(min=1)
    return torch.where(inside, first + (gain - others) * (sums[count.long()] / count.clamp(min=1)), 0.0)
