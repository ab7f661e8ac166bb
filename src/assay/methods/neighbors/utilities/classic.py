"""U(S) = matches among the K nearest of S, over K; the empty set is worth 0.

    phi_N = s_N min(K, N) / (N K),      phi_j = phi_(j+1) + (s_j - s_(j+1)) min(K, j) / (K j)

Jia et al. 2019 (arXiv 1908.08619), theorem 1, with the start that also holds for N < K. Time O(N) behind the sort.
"""

from functools import lru_cache

import torch
from jaxtyping import Float64
from torch import Tensor

from assay.methods.neighbors.utilities.base import Near, Shares, from_shares


def classic(near: Near, k: int) -> Float64[Tensor, "q n"]:
    """Shapley values, nearest first."""
    s, n = near.gain, near.gain.shape[1]
    return from_shares(s, _shares(n, k, s.device), s[:, -1] * (min(k, n) / (n * k)))


@lru_cache(maxsize=2)
def _shares(n: int, k: int, device: torch.device) -> Shares:
    """min(K, j) / (K j), the same for every query."""
    j = torch.arange(1, n, dtype=torch.float64, device=device)
    return Shares.of(j.clamp(max=k) / (k * j))
