"""Data-OOB against a naive loop over the bags, and the bags of fitted ensembles against scikit-learn's own figures."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.ensemble import BaggingClassifier, ExtraTreesClassifier, RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.tree import DecisionTreeClassifier

import assay
from assay.errors import MethodError
from assay.methods import DataOOB
from assay.methods.closed.data_oob import bag_of

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 4))
Y = np.where(X[:, 0] + X[:, 1] > 0, "up", "down")


def test_values_are_those_of_a_loop_over_the_bags() -> None:
    tree = DecisionTreeClassifier(max_depth=3)
    outcomes: list[list[float]] = [[] for _ in range(60)]
    for bag in range(40):
        rows = bag_of(60, bag, 5)
        fitted = clone(tree).set_params(random_state=5 + bag).fit(X[rows], Y[rows])
        for i in set(range(60)) - set(rows.tolist()):
            outcomes[i].append(float(fitted.predict(X[i : i + 1])[0] == Y[i]))
    values = assay.value(tree, (X, Y), method=DataOOB(bags=40, seed=5))
    np.testing.assert_allclose(values.array, [np.mean(found) for found in outcomes], atol=1e-12)
    assert values.stderr is not None
    expected = [np.std(found, ddof=1) / len(found) ** 0.5 for found in outcomes]
    np.testing.assert_allclose(values.stderr, expected, atol=1e-12)
    np.testing.assert_array_equal(values.raw["bags"], [len(found) for found in outcomes])
    assert values.raw["bags"].mean() / 40 == pytest.approx(np.exp(-1), abs=0.02)


def test_regression_and_processes() -> None:
    y = X @ [1.0, 2.0, 0.0, 0.0]
    one, two = (assay.value(Ridge(), (X, y), method=DataOOB(bags=20, processes=p)) for p in (1, 2))
    np.testing.assert_array_equal(one.array, two.array)
    errors = np.zeros(60)
    counts = np.zeros(60)
    for bag in range(20):
        rows = bag_of(60, bag, 0)
        out = np.setdiff1d(np.arange(60), rows)
        errors[out] -= (Ridge().fit(X[rows], y[rows]).predict(X[out]) - y[out]) ** 2
        counts[out] += 1
    np.testing.assert_allclose(one.array, errors / counts, atol=1e-12)


@pytest.mark.parametrize("kind", ["forest", "bagging"])
def test_a_fitted_ensembles_own_bags(kind: str) -> None:
    """Trees vote by themselves, so the oracle asks each one with the rows that scikit-learn says it was fitted to."""
    model = RandomForestClassifier(30, random_state=3) if kind == "forest" else BaggingClassifier(
        DecisionTreeClassifier(max_depth=2), 30, max_features=2, random_state=3)  # fmt: skip
    model.fit(X, Y)
    right: list[list[float]] = [[] for _ in range(60)]
    columns = model.estimators_features_ if kind == "bagging" else [range(4)] * 30
    for tree, rows, some in zip(model.estimators_, model.estimators_samples_, columns, strict=True):
        for i in set(range(60)) - set(np.asarray(rows).tolist()):
            told = tree.predict(X[i : i + 1][:, list(some)])[0]
            right[i].append(float((told if isinstance(told, str) else model.classes_[int(told)]) == Y[i]))
    values = assay.value(model, (X, Y), method=DataOOB())
    np.testing.assert_allclose(values.array, [np.mean(found) for found in right], atol=1e-12)


def test_a_forest_of_regressions_agrees_with_its_out_of_bag_error() -> None:
    """With one tree the out-of-bag prediction is that tree's."""
    y = X[:, 0] ** 2
    forest = RandomForestRegressor(1, random_state=0).fit(X, y)
    rows = np.setdiff1d(np.arange(60), forest.estimators_samples_[0])
    values = assay.value(forest, (X, y), method=DataOOB())
    np.testing.assert_allclose(values.array[rows], -((forest.predict(X[rows]) - y[rows]) ** 2), atol=1e-12)


def test_never_out_of_bag_is_the_mean_of_its_class_and_told() -> None:
    values = assay.value(DecisionTreeClassifier(), (X, Y), method=DataOOB(bags=2))
    never = values.raw["bags"] == 0
    assert never.any()
    for label in ("up", "down"):
        own = label == Y
        np.testing.assert_allclose(values.array[never & own], values.array[~never & own].mean())
    assert values.stderr is not None
    assert np.isnan(values.stderr[never]).all()
    assert any(f"{never.sum()} examples were in every bag" in note for note in values.provenance.notes)


@pytest.mark.parametrize(
    ("model", "rows"), [(ExtraTreesClassifier(3), 60), (RandomForestClassifier(3, bootstrap=False), 60), (None, 30)]
)
def test_bags_that_cannot_be_drawn_again_are_refused(model: object, rows: int) -> None:
    fitted = (RandomForestClassifier(3) if model is None else clone(model)).fit(X, Y)
    with pytest.raises(MethodError, match=r"bootstrap=True|the same rows"):
        assay.value(fitted, (X[:rows], Y[:rows]), method=DataOOB())


def test_mislabelled_rows_are_worth_less() -> None:
    from sklearn.datasets import load_breast_cancer
    from sklearn.metrics import roc_auc_score

    x, y = load_breast_cancer(return_X_y=True)
    flipped = np.random.default_rng(1).random(len(y)) < 0.2
    values = assay.value("tree", (x, np.where(flipped, 1 - y, y)), method=DataOOB(bags=60))
    assert roc_auc_score(flipped, -values.array) > 0.85
