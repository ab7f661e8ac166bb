"""Games whose values are known, brute force over all subsets, and small data."""

from collections.abc import Callable
from itertools import combinations
from math import factorial
from typing import Any

import numpy as np
from sklearn.datasets import make_classification

import assay
from assay.methods.retrain.game import Function

rng = np.random.default_rng(0)


def game(n: int, function: Callable[[np.ndarray], float], name: str) -> Function:
    """A utility of a function of the mask."""
    return Function(n, function, name)


def run(utility: Function, method: Any) -> Any:
    """Values of the game's players; the examples are only their names."""
    return assay.value(utility, (np.arange(utility.n, dtype=float)[:, None], np.zeros(utility.n)), method=method)


def brute_force(utility: Function, weight: Callable[[int, int], float]) -> np.ndarray:
    """sum over S without i of weight(n, |S|) * (U(S + i) - U(S)), one subset after the other."""
    n, values = utility.n, np.zeros(utility.n)
    for i in range(n):
        others = [k for k in range(n) if k != i]
        for size in range(n):
            for subset in combinations(others, size):
                mask = np.zeros(n, bool)
                mask[list(subset)] = True
                with_i = mask.copy()
                with_i[i] = True
                values[i] += weight(n, size) * (utility.function(with_i) - utility.function(mask))
    return values


def shapley_weight(n: int, s: int) -> float:
    return factorial(s) * factorial(n - s - 1) / factorial(n)


def banzhaf_weight(n: int, s: int) -> float:
    return 0.5 ** (n - 1)


def beta_weight(a: float, b: float) -> Callable[[int, int], float]:
    """Rising factorials, as the paper's appendix has them for whole numbers; no gamma functions."""

    def rising(x: float, k: int) -> float:
        return float(np.prod([x + j for j in range(k)])) if k else 1.0

    def weight(n: int, s: int) -> float:
        return rising(b, s) * rising(a, n - 1 - s) / rising(a + b, n - 1)

    return weight


TABLE = rng.normal(size=2**9)


def random_game(n: int) -> Function:
    """Any function at all."""
    bits = 1 << np.arange(n)
    return game(n, lambda mask: float(TABLE[int((bits * mask).sum())]), f"random {n}")


COSTS = np.array([1.0, 2.0, 2.0, 4.0, 7.0, 7.5])


def airport(n: int = len(COSTS)) -> tuple[Function, np.ndarray]:
    """A runway costs as much as its largest aircraft (Littlechild and Owen 1973)."""
    order = np.argsort(COSTS)
    increments = np.diff(COSTS[order], prepend=0.0) / (n - np.arange(n))
    values = np.empty(n)
    values[order] = np.cumsum(increments)
    return game(n, lambda mask: float(COSTS[mask].max(initial=0.0)), "airport"), values


def voting() -> tuple[Function, np.ndarray, np.ndarray]:
    """[51; 50, 49, 1]: the small one is as strong as the middle one. Shapley and Banzhaf values."""
    votes = np.array([50, 49, 1])
    return (
        game(3, lambda mask: float(votes[mask].sum() >= 51), "voting"),
        np.array([4, 1, 1]) / 6,
        np.array([3, 1, 1]) / 4,
    )


def symmetric(n: int) -> tuple[Function, float]:
    """Everybody counts alike: each is worth the same part of the whole."""
    return game(n, lambda mask: float(np.sqrt(mask.sum())), f"symmetric {n}"), float(np.sqrt(n)) / n


def additive(n: int, noise: float = 0.0) -> tuple[Function, np.ndarray]:
    """Known values, with a marginal contribution that depends on the set, of mean zero over each size."""
    worth = np.linspace(-1, 2, n)
    flips = np.random.default_rng(1).normal(size=(n, n))
    pairs = noise * (flips + flips.T) / n
    np.fill_diagonal(pairs, 0.0)
    shapley = worth + pairs.sum(1) / 2

    def utility(mask: np.ndarray) -> float:
        return float(worth[mask].sum() + 0.5 * pairs[np.ix_(mask, mask)].sum())

    return game(n, utility, f"additive {n} {noise}"), shapley


def data(n: int = 40, seed: int = 0, classes: int = 2) -> tuple[Any, Any]:
    """Training and validation rows of a classification."""
    X, y = make_classification(
        n + 40, 5, n_informative=4, n_redundant=0, n_classes=classes, n_clusters_per_class=1, random_state=seed
    )
    return (X[:n], y[:n]), (X[n:], y[n:])


def number_of(note: str, word: str) -> int:
    """The number before a word in a note."""
    words = note.replace(",", "").split()
    return int(words[words.index(word) - 1])
