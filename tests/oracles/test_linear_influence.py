"""Leave-one-out in closed form against refits."""

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Lasso, LinearRegression, LogisticRegression, Ridge

import assay
from assay.errors import MethodError

rng = np.random.default_rng(0)
X, XV = rng.normal(size=(40, 3)) + 1, rng.normal(size=(7, 3)) + 1
Y, YV = (x @ [1.0, -2.0, 0.5] + 3 + rng.normal(size=len(x)) for x in (X, XV))


def refitted(make: Any, y: np.ndarray, loss: Any) -> np.ndarray:
    """Loss of each query without each row less that with all."""
    full = loss(make().fit(X, y))
    rows = [np.arange(len(X)) != i for i in range(len(X))]
    return np.stack([loss(make().fit(X[kept], y[kept])) - full for kept in rows])


@pytest.mark.parametrize("make", [lambda: Ridge(2.0), lambda: Ridge(0.5, fit_intercept=False), LinearRegression])
def test_ridge_is_exact(make: Any) -> None:
    expected = refitted(make, Y, lambda fitted: 0.5 * (fitted.predict(XV) - YV) ** 2)
    scores = assay.attribute(make(), (X, Y), (XV, YV), "linear-influence")
    np.testing.assert_allclose(scores.array, expected, atol=1e-6 * np.abs(expected).max())  # kept as float32
    values = assay.value(make(), (X, Y), (XV, YV), "linear-influence")
    np.testing.assert_allclose(values.array, expected.mean(1), atol=1e-6 * np.abs(expected).max())


def test_ridge_is_exact_in_double_precision() -> None:
    from assay.methods.closed.estimators import table_of
    from assay.methods.closed.linear_influence import _ridge

    expected = refitted(lambda: Ridge(2.0), Y, lambda fitted: 0.5 * (fitted.predict(XV) - YV) ** 2)
    found = _ridge(table_of(Ridge(2.0), assay.read((X, Y)))).scores(XV, YV)
    np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("intercept", [True, False])
def test_logistic_is_close_to_refits(classes: int, intercept: bool) -> None:
    cuts = np.quantile(Y, np.arange(1, classes) / classes)
    y, yv = np.digitize(Y, cuts), np.digitize(YV, cuts)
    make = lambda: LogisticRegression(C=1.0, fit_intercept=intercept, tol=1e-10, max_iter=10_000)  # noqa: E731
    loss = lambda fitted: -np.log(fitted.predict_proba(XV)[np.arange(len(yv)), yv])  # noqa: E731
    expected = refitted(make, y, loss)
    found = assay.attribute(make(), (X, y), (XV, yv), "linear-influence").array
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error < 0.15
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.997
    if classes == 2 and not intercept:
        assert error < 0.9 * np.abs(first_order(y, yv) - expected).max() / np.abs(expected).max()


def first_order(y: np.ndarray, yv: np.ndarray) -> np.ndarray:
    """The classical influence function: the row's own curvature stays in the Hessian, the query is linearised."""
    w = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10, max_iter=10_000).fit(X, y).coef_[0]
    p, pv = (1 / (1 + np.exp(-x @ w)) for x in (X, XV))
    H = (X.T * (p * (1 - p))) @ X + np.eye(3)
    return ((p - y)[:, None] * X) @ np.linalg.solve(H, (XV * (pv - yv)[:, None]).T)


def test_logistic_newton_step_is_the_dense_one() -> None:
    """Three classes: the Hessian without the row, assembled by automatic differentiation."""
    import torch

    y = np.digitize(Y, np.quantile(Y, [0.33, 0.66]))
    model = LogisticRegression(C=0.7, tol=1e-12, max_iter=10_000)
    found = assay.methods.LinearInfluence().fit(model, assay.read((X, y)))
    fitted = LogisticRegression(C=0.7, tol=1e-10, solver="newton-cholesky", max_iter=1000).fit(X, y)
    W = torch.tensor(np.hstack([fitted.coef_, fitted.intercept_[:, None]]))
    A, labels = torch.tensor(np.hstack([X, np.ones((40, 1))])), torch.tensor(y)

    def objective(flat: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        w = flat.reshape(3, 4)
        fit = torch.nn.functional.cross_entropy(A[kept] @ w.T, labels[kept], reduction="sum")
        return fit + w[:, :3].square().sum() / (2 * 0.7)

    query = torch.tensor([[0.3, -1.0, 2.0, 1.0]], dtype=torch.float64)
    scores = found.score(assay.read((query[:, :3].numpy(), np.array([1])))).array[:, 0]
    loss = lambda w: torch.nn.functional.cross_entropy(query @ w.T, torch.tensor([1]))  # noqa: E731
    for i in range(0, 40, 7):
        kept = torch.arange(40) != i
        g = torch.func.grad(objective)(W.flatten(), kept)
        H = torch.func.hessian(objective)(W.flatten(), kept)
        moved = W - (torch.linalg.pinv(H, rcond=1e-12) @ g).reshape(3, 4)
        assert scores[i] == pytest.approx(float(loss(moved) - loss(W)), abs=1e-6)


@pytest.mark.parametrize("model", [Lasso(), LogisticRegression(class_weight="balanced"), Ridge(positive=True)])
def test_models_without_closed_form_are_refused(model: Any) -> None:
    y = (Y > 0).astype(int) if isinstance(model, LogisticRegression) else Y
    with pytest.raises(MethodError, match="closed forms for Ridge"):
        assay.attribute(model, (X, y), (XV, y[:7]), "linear-influence")


def test_a_row_that_decides_alone_is_refused() -> None:
    x = np.hstack([X, np.eye(40)[:, :1]])
    with pytest.raises(MethodError, match="training row 1 "):
        assay.attribute(LinearRegression(), (x, Y), (x, Y), "linear-influence")
