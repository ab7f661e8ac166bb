"""U(S) = 1 where the K nearest of S vote for the query's label, 1/2 for a tie or no vote, 0 where they vote against it.

A vote is a whole number, LEVELS exp(-d / mean d of the K nearest of all) rounded, counted against the label where it is not
the query's (with more than two classes: for it against all others together). Let everyone else join with chance t; then

    phi_i = integral over t of  E[ U(S with i) - U(S) ],

a polynomial in t of degree N - 1 at most, which Gauss's quadrature with N/2 nodes integrates exactly. From near to far, the
state is how many seats are taken and the sum of their votes: a forward pass gives each state's chance before i, a
backward pass the expected utility behind i, and both together all examples' values.

The game of Wang, Mittal and Jia 2024 (arXiv 2401.11103), whose algorithm counts subsets in O(N^2) too; probabilities in place of
counts do not overflow. Time O(N^2 K^2 LEVELS) a query; memory is bounded.
"""

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from assay.methods.neighbors.utilities.base import Near

LEVELS = 8
STATES = 2**23
"""Numbers kept of a forward pass: 64 MiB."""


def weighted(near: Near, k: int) -> Float64[Tensor, "q n"]:
    """Shapley values, nearest first."""
    found = [values(row, k) for row in votes(near, k).cpu().numpy()]
    return torch.from_numpy(np.stack(found)).to(near.gain.device)


def votes(near: Near, k: int) -> Int64[Tensor, "q n"]:
    """Of each example, positive where it has the query's label."""
    assert near.distance is not None
    distance = near.distance.double()
    usual = distance[:, :k].mean(1, keepdim=True).clamp(min=1e-30)
    size = (LEVELS * (-distance / usual).exp()).round().long()
    return torch.where(near.gain > 0, size, -size)


def values(vote: Int64[np.ndarray, " n"], k: int) -> Float64[np.ndarray, " n"]:
    """Of one query."""
    n, reach = len(vote), k * LEVELS
    nodes, mass = np.polynomial.legendre.leggauss((n + 1) // 2)
    step = max(1, STATES // (n * k * (2 * reach + 1)))
    chunks = range(0, len(nodes), step)
    return sum(
        (_integrated(vote, k, (1 + nodes[c : c + step]) / 2, mass[c : c + step] / 2) for c in chunks), start=np.zeros(n)
    )


def _integrated(
    vote: Int64[np.ndarray, " n"], k: int, t: Float64[np.ndarray, " nodes"], mass: Float64[np.ndarray, " nodes"]
) -> Float64[np.ndarray, " n"]:
    reach, t = k * LEVELS, t[:, None, None]
    utility = (1 + np.sign(np.arange(-reach, reach + 1))) / 2
    chance = np.zeros((len(vote), len(t), k, 2 * reach + 1))
    chance[0, :, 0, reach] = 1.0
    for i in range(len(vote) - 1):
        chance[i + 1] = (1 - t) * chance[i]
        chance[i + 1, :, 1:] += t * np.roll(chance[i, :, :-1], vote[i], axis=2)
    behind = np.broadcast_to(utility, chance.shape[1:]).copy()
    found = np.zeros(len(vote))
    for i in reversed(range(len(vote))):
        joined = np.concatenate([behind[:, 1:], np.broadcast_to(utility, (len(t), 1, len(utility)))], axis=1)
        joined = np.roll(joined, -vote[i], axis=2)  # what rolls around lies out of reach and has no chance
        found[i] = np.einsum("t,tcv,tcv->", mass, chance[i], joined - behind)
        behind = (1 - t) * behind + t * joined
    return found
