"""Warm refits are scikit-learn's fits, along any path of subsets."""

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.methods.retrain import games

from assay.methods.retrain.refit import REFITS, differs, refit_for
from assay.methods.retrain.refit.base import Data, Refit

TIGHT = {"tol": 1e-10, "max_iter": 20_000}
CASES: dict[str, tuple[Any, Any, int]] = {  # the estimator, its precise twin, how many classes (0: numbers)
    "two classes": (LogisticRegression(), LogisticRegression(**TIGHT), 2),
    "three classes": (LogisticRegression(C=5.0), LogisticRegression(C=5.0, **TIGHT), 3),
    "no intercept": (LogisticRegression(fit_intercept=False), LogisticRegression(fit_intercept=False, **TIGHT), 3),
    "weak penalty": (LogisticRegression(C=1e3), LogisticRegression(C=1e3, solver="newton-cg", **TIGHT), 2),
    "ridge": (Ridge(0.5), Ridge(0.5), 0),
    "ridge without intercept": (Ridge(2.0, fit_intercept=False), Ridge(2.0, fit_intercept=False), 0),
    "knn": (KNeighborsClassifier(3), KNeighborsClassifier(3), 3),
    "knn cosine": (KNeighborsClassifier(3, metric="cosine"), KNeighborsClassifier(3, metric="cosine"), 2),
    "knn numbers": (KNeighborsRegressor(4), KNeighborsRegressor(4), 0),
    "bayes": (GaussianNB(), GaussianNB(), 3),
}


def data(classes: int, n: int = 45) -> Data:
    (X, y), (Xv, yv) = games.data(n, classes=max(classes, 2))
    if not classes:
        y, yv = X @ np.arange(1.0, 6.0) + np.sin(X[:, 0]), Xv @ np.arange(1.0, 6.0)
    return Data(X, y, Xv, yv, np.unique(y) if classes else None)


def usable(rows: np.ndarray, given: Data) -> bool:
    return rows.sum() >= 5 and (given.classes is None or len(np.unique(given.y[rows])) > 1)


@pytest.mark.parametrize("name", CASES)
def test_a_walk_there_and_back_gives_scikit_learns_outputs(name: str) -> None:
    estimator, precise, classes = CASES[name]
    given = data(classes)
    kind = refit_for(estimator, given)
    assert kind is not None
    refit, order, random = (
        kind(estimator, given),
        np.random.default_rng(0).permutation(given.n),
        np.random.default_rng(1),
    )
    path = [np.isin(np.arange(given.n), order[:k]) for k in range(1, given.n + 1)]
    path += [path[-1] & (np.arange(given.n) != k) for k in range(6)]  # one by one out of all
    path += [random.random(given.n) < 0.5 for _ in range(4)]  # and far apart
    compared = 0
    for step, rows in enumerate(path):
        if not usable(rows, given):
            continue
        found = refit.outputs(rows)
        if step % 4 == 0 or step >= given.n:
            np.testing.assert_allclose(found, given.outputs(precise, rows), atol=2e-5 * given.scale)
            compared += 1
    assert compared > 15


@pytest.mark.parametrize("name", CASES)
def test_what_was_fitted_before_does_not_matter_after_a_reset(name: str) -> None:
    estimator, _, classes = CASES[name]
    given = data(classes)
    refit = refit_for(estimator, given)(estimator, given)  # type: ignore[misc]
    rows = np.random.default_rng(2).random(given.n) < 0.6
    fresh = refit.outputs(rows)
    refit.outputs(np.ones(given.n, bool))
    refit.reset()
    np.testing.assert_array_equal(refit.outputs(rows), fresh)


def test_fewer_rows_than_neighbours_are_all_neighbours() -> None:
    given = data(2)
    refit = refit_for(KNeighborsClassifier(7), given)(KNeighborsClassifier(7), given)  # type: ignore[misc]
    rows = np.isin(np.arange(given.n), [int(np.flatnonzero(given.y == c)[0]) for c in (0, 1)] + [2])
    expected = np.bincount(given.y[rows], minlength=2) / rows.sum()
    np.testing.assert_allclose(refit.outputs(rows), np.broadcast_to(expected, (len(given.yv), 2)))


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(class_weight="balanced"), LogisticRegression(solver="liblinear"), Ridge(0.0),
        make_pipeline(StandardScaler(), LogisticRegression()), KNeighborsClassifier(weights="distance"),
        GaussianNB(priors=[0.5, 0.5]), type("Own", (LogisticRegression,), {})(),
    ],
)  # fmt: skip
def test_what_is_not_covered_is_left_to_scikit_learn(estimator: Any) -> None:
    for classes in (0, 2):
        assert refit_for(estimator, data(classes)) is None


def test_rows_with_missing_numbers_are_left_to_scikit_learn() -> None:
    given = data(2)
    given.X[3, 1] = np.nan
    assert refit_for(LogisticRegression(), given) is None


def test_a_refit_that_is_wrong_is_noticed() -> None:
    given = data(2)
    kind: type[Refit] = REFITS[0]

    class Wrong(kind):  # type: ignore[valid-type, misc]
        def outputs(self, rows: np.ndarray) -> np.ndarray:
            p = super().outputs(rows)
            return p + 1e-3 * (np.arange(p.shape[1]) - 0.5)

    precise = LogisticRegression(**TIGHT)
    assert differs(kind(LogisticRegression(), given), precise, given) < 1e-5
    assert differs(Wrong(LogisticRegression(), given), precise, given) > 1e-4
