"""Exact semivalues of few players, from the utility of every coalition.

    phi_i = (1 / n) sum over S without i of  w(|S| + 1) / C(n - 1, |S|) * (U(S + i) - U(S))

The 2^n coalitions are visited in the order of a Gray code, so that each differs from the last in one player.
"""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float64
from numpy.typing import NDArray
from scipy import special

from assay.methods.retrain.pool import Runner
from assay.methods.retrain.samplers import Subsets, Unit
from assay.progress import task

TOGETHER = 256
Positions = NDArray[np.int64]


def all_utilities(runner: Runner) -> Float64[np.ndarray, " coalitions"]:
    """U of the coalition whose bits are the position's: player k is in if position >> k is odd."""
    n = runner.game.players
    total = 2**n
    found = np.empty(total)
    positions = cast(Positions, np.arange(total))
    gray = cast(Positions, positions ^ (positions >> 1))
    chunks: list[Positions] = [gray[start : start + TOGETHER] for start in range(0, total, TOGETHER)]

    def draws() -> Iterator[tuple[Unit, ...]]:
        return ((Subsets(masks(chunk, n)),) for chunk in chunks)

    with task("all coalitions", total) as advance:
        for chunk, (utilities,) in zip(chunks, runner.run(draws()), strict=True):
            found[chunk] = utilities
            advance(len(chunk))
    return found


def masks(positions: Positions, n: int) -> Bool[np.ndarray, "m n"]:
    """Members of the coalitions at these positions."""
    return (positions[:, None] >> np.arange(n)[None, :]) & 1 == 1


def exact_values(
    utilities: Float64[np.ndarray, " coalitions"], weights: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """The semivalue with weights w(1), ..., w(n)."""
    n = len(weights)
    positions = cast(Positions, np.arange(2**n))
    size = masks(positions, n).sum(1)
    share = weights / (n * np.asarray(cast(Any, special).comb(n - 1, np.arange(n))))
    values = np.empty(n)
    for i in range(n):
        without = positions[(positions >> i) & 1 == 0]
        values[i] = (share[size[without]] * (utilities[without | 1 << i] - utilities[without])).sum()
    return values
