"""U(S) = -(T / K - y)^2 with T the sum of the targets of the K nearest of S; an empty seat counts as target 0.

For neighbouring ranks i and i + 1, everyone else joining independently with a chance t that is uniform on [0, 1],

    phi_i - phi_(i+1) = (y_(i+1) - y_i) / K  { [(y_i + y_(i+1)) / K - 2 y] P_i  +  2/K [ q_i sum_{l<i} y_l + sum_{l>i+1} r_l y_l ] }
    P_i = min(K, i) / i                       that i is among the K nearest
    q_i = m (m-1) / (2 i (i-1)), m = min(K, i)            and a nearer one, l < i, has joined
    r_l = m (m+1) / (2 (l-1) (l-2)), m = min(K-1, l-2)    and a further one, l > i+1, has a seat too
    phi_N = -y_N / (K N) [ m (m-1) / K mean_{l<N} y_l + m (y_N / K - 2 y) ],  m = min(K, N)

The game of Jia et al. 2019 (arXiv 1908.08619), section 5.1; derived anew, so that it also holds for N < K and with the empty
set worth -y^2. Targets have lost their mean, so an empty seat predicts the mean target. Time O(N) behind the sort.
"""

from jaxtyping import Float64
from torch import Tensor

from assay.methods.neighbors.utilities.base import Near, from_steps


def regression(near: Near, k: int) -> Float64[Tensor, "q n"]:
    """Shapley values, nearest first."""
    y, n, goal = near.gain, near.gain.shape[1], near.target[:, None]
    m = min(k, n)
    others = y[:, :-1].sum(1) / max(n - 1, 1)
    last = -y[:, -1] / (k * n) * (m * (m - 1) / k * others + m * (y[:, -1] / k - 2 * near.target))
    i = near.ranks(n - 1)
    m_i = i.clamp(max=k)
    q = m_i * (m_i - 1) / (2 * i * (i - 1).clamp(min=1))
    l = near.ranks(n)
    m_l = (l - 2).clamp(max=k - 1, min=0)
    r = m_l * (m_l + 1) / (2 * ((l - 1) * (l - 2)).clamp(min=1))
    nearer = y.cumsum(1)[:, :-1] - y[:, :-1]
    seated = (y * r).cumsum(1)
    further = seated[:, -1:] - seated[:, 1:]
    own, after = y[:, :-1], y[:, 1:]
    inner = ((own + after) / k - 2 * goal) * (m_i / i) + 2 / k * (q * nearer + further)
    return from_steps((after - own) / k * inner, last)
