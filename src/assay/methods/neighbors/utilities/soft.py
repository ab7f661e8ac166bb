"""U(S) = share of matches among the min(K, |S|) nearest of S; the empty set is worth 1/C, a guess among C classes.

    phi_N = (s_N - mean_{j<N} s_j) / N  sum_{l=2..min(K,N)} 1/l  +  (s_N - 1/C) / N
    phi_j = phi_(j+1) + (s_j - s_(j+1)) / (N-1)  [ sum_{l=1..min(K,N-1)} 1/l  +  1[N > K] (min(j,K) (N-1)/j - K) / K ]

Wang and Jia 2023 (arXiv 2304.04258), theorem 2. Time O(N) behind the sort.
"""

from functools import lru_cache

import torch
from jaxtyping import Float64
from torch import Tensor

from assay.methods.neighbors.utilities.base import Near, Shares, from_shares, harmonic


def soft(near: Near, k: int) -> Float64[Tensor, "q n"]:
    """Shapley values, nearest first."""
    s, n = near.gain, near.gain.shape[1]
    others, furthest = s[:, :-1].sum(1) / max(n - 1, 1), s[:, -1]
    last = (furthest - others) / n * harmonic(2, min(k, n)) + (furthest - 1 / near.classes) / n
    return from_shares(s, _shares(n, k, s.device), last)


@lru_cache(maxsize=2)
def _shares(n: int, k: int, device: torch.device) -> Shares:
    """What stands before s_j - s_(j+1), the same for every query."""
    j = torch.arange(1, n, dtype=torch.float64, device=device)
    share = torch.full_like(j, harmonic(1, min(k, n - 1)))
    if n > k:
        share += (j.clamp(max=k) * (n - 1) / j - k) / k
    return Shares.of(share / max(n - 1, 1))
