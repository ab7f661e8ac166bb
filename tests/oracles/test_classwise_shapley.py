"""Class-wise Shapley against enumeration of both sums."""

from itertools import combinations
from math import factorial

import numpy as np
from sklearn.linear_model import LogisticRegression
from tests.methods.retrain import games

import assay
from assay.methods import ClasswiseShapley


def naive(X: np.ndarray, y: np.ndarray, XV: np.ndarray, yv: np.ndarray) -> np.ndarray:
    """Equations 4 to 7, one subset after the other."""

    def worth(rows: list[int], label: int) -> float:
        counts = np.bincount(y[rows], minlength=2) if rows else np.zeros(2)
        if np.count_nonzero(counts) == 2:
            right = (LogisticRegression().fit(X[rows], y[rows]).predict(XV) == yv).astype(float)
        elif rows:
            right = (counts.argmax() == yv).astype(float)
        else:
            right = np.full(len(yv), 0.5)
        return right[yv == label].sum() / len(yv) * np.exp(right[yv != label].sum() / len(yv))

    values = np.zeros(len(y))
    for i in range(len(y)):
        own = [k for k in range(len(y)) if y[k] == y[i] and k != i]
        others = [k for k in range(len(y)) if y[k] != y[i]]
        m = len(own) + 1
        for size in range(len(others) + 1):
            for S in combinations(others, size):
                for t in range(len(own) + 1):
                    for T in combinations(own, t):
                        weight = factorial(t) * factorial(m - t - 1) / factorial(m) / 2 ** len(others)
                        values[i] += weight * (worth([*S, *T, i], y[i]) - worth([*S, *T], y[i]))
    return values


def test_it_is_the_enumeration() -> None:
    (X, y), (XV, yv) = games.data(6, seed=3)
    found = assay.value(LogisticRegression(), (X, y), (XV, yv), ClasswiseShapley(stop="updates:80"))
    off = (found.array - naive(X, y, XV, yv)) / found.stderr
    assert np.abs(off).max() < 4.5
    assert np.sqrt(np.mean(off**2)) < 2
    assert found.stderr.max() < 0.04
