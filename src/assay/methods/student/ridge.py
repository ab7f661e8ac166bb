"""Kernel ridge regression with a free mean, and what it would have said of rows that it had not seen, in closed form.

    min over f, b of  sum_i (y_i - b - f(x_i))^2 + alpha |f|^2_K

With A = K + alpha I and  P = A^-1 - A^-1 1 1^T A^-1 / (1^T A^-1 1),  the coefficients are c = P y, and the residuals of a set of rows F,
had the fit been made without them, are  P_FF^-1 c_F  (leave-one-out: c_i / P_ii; Dubrule 1983 for kriging, equation 12). So one
eigendecomposition serves every alpha and every fold. float64. Cost n^3, memory a few n^2.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float64, Int64

ALPHAS: tuple[float, ...] = tuple(10.0 ** (k / 3 - 3) for k in range(16))
"""Of a kernel whose rows have length about 2 (three groups at unit length, and shape)."""


@dataclass(frozen=True)
class Ridge:
    """A fit: `alpha`, coefficients of the rows, mean, and the matrix P from which left-out residuals come."""

    alpha: float
    coefficients: Float64[np.ndarray, " n"]
    mean: float
    P: Float64[np.ndarray, "n n"]

    def without(self, folds: Iterable[Int64[np.ndarray, " _"]]) -> Float64[np.ndarray, " n"]:
        """Each row's residual in a fit without its fold; NaN for rows that are in none."""
        left = np.full(len(self.coefficients), np.nan)
        for fold in folds:
            left[fold] = np.linalg.solve(self.P[np.ix_(fold, fold)], self.coefficients[fold])
        return left


def fit(K: Float64[np.ndarray, "n n"], y: Float64[np.ndarray, " n"], alpha: float | None = None) -> Ridge:
    """The fit; alpha is that of the least leave-one-out error, unless it is given."""
    values, vectors = np.linalg.eigh(K)
    values = np.maximum(values, 0.0)
    best = min(ALPHAS, key=partial(_left_out, values, vectors, y)) if alpha is None else alpha
    inverse = (vectors / (values + best)) @ vectors.T
    ones = inverse.sum(1)
    P = inverse - np.outer(ones, ones) / ones.sum()
    return Ridge(best, P @ y, float(ones @ y / ones.sum()), P)


def _left_out(
    values: Float64[np.ndarray, " n"], vectors: Float64[np.ndarray, "n n"], y: Float64[np.ndarray, " n"], alpha: float
) -> float:
    """Mean squared leave-one-out residual."""
    weight = 1 / (values + alpha)
    ones = vectors @ (weight * vectors.sum(0))
    total = ones.sum()
    diagonal = vectors**2 @ weight - ones**2 / total
    c = vectors @ (weight * (vectors.T @ y)) - ones * (ones @ y) / total
    residuals: Float64[np.ndarray, " n"] = c / diagonal
    return float(np.mean(residuals**2))
