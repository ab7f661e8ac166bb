"""U(S) = matches among the K nearest of S, over K; the empty set is worth 0.

    phi_N = s_N min(K, N) / (N K),      phi_j = phi_(j+1) + (s_j - s_(j+1)) min(K, j) / (K j)

Jia et al. 2019 (arXiv 1908.08619), theorem 1, with the start that also holds for N < K. Time O(N) behind the sort.
"""

from jaxtyping import Float64
from torch import Tensor

from assay.methods.neighbors.utilities.base import Near, from_shares


def classic(near: Near, k: int) -> Float64[Tensor, "q n"]:
    """Shapley values, nearest first."""
    s, n = near.gain, near.gain.shape[1]
    j = near.ranks(n - 1)
    return from_shares(s, j.clamp(max=k) / (k * j), s[:, -1].double() * (min(k, n) / (n * k)))
