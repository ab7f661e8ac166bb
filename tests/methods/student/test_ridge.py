"""The ridge: normal equations, and refits without rows."""

import numpy as np
import pytest

from assay.methods.student.ridge import fit

X = np.random.default_rng(0).normal(size=(30, 6))
Y = X @ np.arange(6.0) + 3 + np.random.default_rng(1).normal(size=30)


def primal(X: np.ndarray, y: np.ndarray, alpha: float) -> tuple[np.ndarray, float]:
    """Weights and a mean that is not penalised."""
    inside = np.hstack([X, np.ones((len(X), 1))])
    penalty = alpha * np.eye(inside.shape[1])
    penalty[-1, -1] = 0
    found = np.linalg.solve(inside.T @ inside + penalty, inside.T @ y)
    return found[:-1], float(found[-1])


def test_the_fit_is_that_of_the_normal_equations() -> None:
    ridge = fit(X @ X.T, Y, alpha=0.7)
    weights, mean = primal(X, Y, 0.7)
    np.testing.assert_allclose(X.T @ ridge.coefficients, weights, rtol=1e-8)
    assert ridge.mean == pytest.approx(mean)


def test_left_out_residuals_are_those_of_refits() -> None:
    ridge = fit(X @ X.T, Y, alpha=0.7)
    folds = [np.arange(0, 7), np.array([9, 20, 28]), np.array([10])]
    found = ridge.without(folds)
    for fold in folds:
        rest = np.setdiff1d(np.arange(30), fold)
        weights, mean = primal(X[rest], Y[rest], 0.7)
        np.testing.assert_allclose(found[fold], Y[fold] - X[fold] @ weights - mean, rtol=1e-7)
    assert np.isnan(found[8])


def test_alpha_is_that_of_the_least_leave_one_out_error() -> None:
    from assay.methods.student.ridge import ALPHAS

    def error(alpha: float) -> float:
        return float(np.mean(fit(X @ X.T, Y, alpha).without([np.array([k]) for k in range(30)]) ** 2))

    assert fit(X @ X.T, Y).alpha == min(ALPHAS, key=error)
