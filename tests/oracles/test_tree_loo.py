"""Tree LOO against a plain loop of fits, and equal to LeafRefit where no split moves; the others point the same way."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier

import assay
from assay.errors import MethodError, ModelError
from assay.methods import TreeLOO


def stiff(n: int = 40) -> tuple[np.ndarray, np.ndarray, GradientBoostingRegressor]:
    """Two binary features of very different effects: no row can move a split, and the start is zero."""
    rng = np.random.default_rng(0)
    X = np.stack([np.arange(n) % 2, np.arange(n) // 2 % 2], 1).astype(float)
    y = 8 * X[:, 0] + 2 * X[:, 1] + 0.3 * rng.normal(size=n)
    model = GradientBoostingRegressor(n_estimators=5, max_depth=2, init="zero", random_state=0).fit(X, y)
    return X, y, model


def test_it_is_leaf_refit_where_no_split_moves() -> None:
    X, y, model = stiff()
    queries = X[:4], y[:4] + 1
    loo, refit = (assay.attribute(model, (X, y), queries, name) for name in ("tree-loo", "leaf-refit"))
    np.testing.assert_allclose(loo.array, refit.array, rtol=1e-4, atol=1e-6)
    (_, told) = loo.provenance.notes
    assert told == f"Pairs of exactly no effect: {np.mean(loo.array == 0):.1%}."
    assert np.mean(np.abs(loo.array) > 1e-6) == 0.25


@pytest.mark.parametrize("method", ["boostin", "leaf-influence", "leaf-refit", "tracin-trees", "trex"])
def test_the_others_have_its_sign(method: str) -> None:
    """Real retraining, on rows that matter most: the row's own group of the four."""
    X, y, model = stiff()
    queries = X[:4], y[:4] + 1
    loo, found = (assay.attribute(model, (X, y), queries, name).array for name in ("tree-loo", method))
    for q in range(4):
        rows = np.flatnonzero(np.abs(loo[:, q]) > 1e-6)
        assert spearmanr(loo[rows, q], found[rows, q]).statistic > 0.9


def test_similar_rows_that_agree_help() -> None:
    X, y, model = stiff()
    queries = X[:4], y[:4] + 1
    loo, found = (assay.attribute(model, (X, y), queries, name).array for name in ("tree-loo", "tree-similarity"))
    assert loo[found > 0].mean() > loo[found < 0].mean() + 0.005


@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_a_loop_of_fits(weighted: bool) -> None:
    rng = np.random.default_rng(0)
    X, weight = rng.normal(size=(25, 3)), rng.uniform(0.5, 2, 25)
    y = np.where(X[:, 0] > 0, "yes", "no")
    model = RandomForestClassifier(8, random_state=0)
    given: Any = {"sample_weight": weight} if weighted else {}
    model.fit(X, y, **given)
    train = (X, y, weight) if weighted else (X, y)
    found = assay.attribute(model, train, (X[:3], y[:3]), "tree-loo").array

    def loss(rows: np.ndarray) -> np.ndarray:
        one = RandomForestClassifier(8, random_state=0)
        one.fit(X[rows], y[rows], **({"sample_weight": weight[rows]} if weighted else {}))
        right = one.predict_proba(X[:3])[np.arange(3), (y[:3] == "yes").astype(int)]
        return -np.log((8 * right + 1) / 10)

    everything = np.arange(25)
    for i in range(0, 25, 6):
        expected = loss(np.delete(everything, i)) - loss(everything)
        np.testing.assert_allclose(found[i], expected, rtol=1e-5, atol=1e-7)


def test_too_many_fits_and_no_estimator_are_refused(tmp_path: Any) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    X, y, model = stiff()
    with pytest.raises(MethodError, match="40 times"):
        assay.attribute(model, (X, y), (X, y), TreeLOO(most_fits=10))
    booster = lightgbm.LGBMRegressor(n_estimators=2, verbose=-1).fit(X, y).booster_
    with pytest.raises(ModelError, match="Give the estimator"):
        assay.attribute(booster, (X, y), (X, y), "tree-loo")
    lone = np.array([0] * 39 + [1])
    forest = RandomForestClassifier(3, random_state=0).fit(X, lone)
    with pytest.raises(ModelError, match="only one training row"):
        assay.attribute(forest, (X, lone), (X[:2], lone[:2]), "tree-loo")
