"""TREX: the representer theorem, a solution by other means, the score row by row; boosters and forests."""

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from tests.trees import LOSSES, Toy, loss_of

import assay
from assay.errors import MethodError
from assay.methods import TREX
from assay.methods.trees import trex
from assay.methods.trees.base import over_leaves
from assay.methods.trees.load import load_ensemble
from assay.methods.trees.tree_similarity import tree_columns


def kernel(read: Any, other: Any, size: int) -> np.ndarray:
    """<z, z> by counting."""
    one, two = tree_columns(read)[0], tree_columns(other)[0]
    counts = np.bincount(one.ravel(), minlength=size)
    found = np.zeros((len(one), len(two)))
    for i in range(len(one)):
        for j in range(len(two)):
            same = one[i][one[i] == two[j]]
            found[i, j] = (1 / counts[same] ** 2).sum()
    return found


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "steps"])
def test_weights_are_a_sum_over_rows_and_optimal(name: str) -> None:
    toy, m = Toy(name), 0.01
    read = toy.read()
    columns, size = tree_columns(read)
    share = 1 / np.maximum(np.bincount(columns.ravel(), minlength=size), 1)
    Z = over_leaves(columns, share[columns], size)
    fit = trex.surrogate(LOSSES[name], Z, read.y, read.weight, read.output.T, m, toy.start)
    np.testing.assert_allclose(Z.T @ fit.alpha.T, fit.W, atol=1e-8 * np.abs(fit.W).max())
    dense, C = Z.toarray(), len(toy.start)

    def objective(w: np.ndarray) -> float:
        W = w.reshape(-1, C)
        return float(np.mean(toy.weight * loss_of(name, dense @ W + fit.f0, toy.y)) + m * (W**2).sum())

    best = minimize(objective, np.zeros(size * C), method="L-BFGS-B", options={"ftol": 1e-14, "maxfun": 10**6})
    assert objective(fit.W.ravel()) <= best.fun + 1e-12
    np.testing.assert_allclose(fit.W.ravel(), best.x, atol=2e-3 * np.abs(fit.W).max())


def test_scores_are_losses_without_a_term() -> None:
    toy = Toy("logistic")
    method = TREX(penalty=0.02)
    found, train = toy.scores(method), toy.read()
    queries = toy.ensemble.read(assay.read(toy.queries()), "queries")
    size = tree_columns(train)[1]
    K, Kq = kernel(train, train, size), kernel(train, queries, size)
    f0, alpha = toy.start[0], np.zeros(len(toy.y))
    for _ in range(3000):  # gradient steps in the dual, on a fixed point of alpha
        f = f0 + K @ alpha
        alpha += 0.5 * (-toy.weight * (1 / (1 + np.exp(-f)) - toy.y) / (2 * 0.02 * len(toy.y)) - alpha)
    fq = f0 + Kq.T @ alpha
    for i in range(len(toy.y)):
        expected = loss_of("logistic", (fq - alpha[i] * Kq[i])[:, None], toy.yq) - loss_of(
            "logistic", fq[:, None], toy.yq
        )
        np.testing.assert_allclose(found[i], expected, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("kind", [RandomForestClassifier, RandomForestRegressor])
def test_forests(kind: Any) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 3))
    y = (X[:, 0] > 0).astype(int) if kind is RandomForestClassifier else X[:, 0]
    model = kind(20, min_samples_leaf=5, random_state=0).fit(X, y)
    scores = assay.attribute(model, (X, y), (X[:10], y[:10]), "trex")
    assert (np.argmax(scores.array, 0) < 150).all()
    (_, agreement) = scores.provenance.notes
    assert float(agreement.split()[4]) > 0.8
    assert np.mean(scores.array[np.arange(10), np.arange(10)] > np.median(scores.array[:, :10], 0)) > 0.9
    assert load_ensemble(model, "trex").boosting is None


def test_a_penalty_of_zero_is_refused() -> None:
    with pytest.raises(MethodError, match="penalty"):
        TREX(penalty=0.0)
