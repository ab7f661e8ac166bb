"""Utilities: scikit-learn's own scores, and what they are where nothing can be fitted."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC
from tests.methods.retrain import games
from torch import nn

import assay
from assay.errors import DataError, MethodError
from assay.methods import Shapley
from assay.methods.retrain.models import estimator_of
from assay.methods.retrain.utilities import EstimatorUtility, utility_of

(X, Y), (XV, YV) = games.data(40, classes=3)
TRAIN, VALID = assay.read((X, Y)), assay.read((XV, YV))
NUMBERS = assay.read((X, X[:, 0] - X[:, 1])), assay.read((XV, XV[:, 0] - XV[:, 1]))
ROWS = np.arange(40) % 2 == 0
SOLVED = LogisticRegression(tol=1e-8, max_iter=1000)
"""By default its own tolerance is worth 2e-4 nats, and the refit by Newton steps is the nearer to the optimum."""


def brier(model: Any, X: Any, y: Any) -> float:
    return -float(np.square(model.predict_proba(X) - (y[:, None] == model.classes_)).mean())


@pytest.mark.parametrize("scoring", ["accuracy", "neg_log_loss", "f1_macro", "balanced_accuracy", brier])
@pytest.mark.parametrize("estimator", [SOLVED, make_pipeline(StandardScaler(), SOLVED), KNeighborsClassifier(3)])
def test_the_utility_is_the_score(estimator: Any, scoring: Any) -> None:
    evaluate = utility_of(estimator, TRAIN, VALID, scoring, 0).evaluator()
    scorer = get_scorer(scoring) if isinstance(scoring, str) else scoring
    for rows in (ROWS, ~ROWS, np.ones(40, bool)):
        fitted = estimator.fit(X[rows], Y[rows])
        expected = scorer(fitted, XV, YV)
        if scoring == "neg_log_loss":  # a probability of 0 counts as 1e-15 here
            p = fitted.predict_proba(XV)[np.arange(40), YV]
            expected = np.log(np.maximum(p, 1e-15)).mean()
        assert evaluate(rows) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("scoring", ["auto", "r2", "neg_mean_absolute_error", "neg_median_absolute_error"])
@pytest.mark.parametrize("estimator", [Ridge(), LinearRegression()])
def test_the_utility_of_a_regression_is_the_score(estimator: Any, scoring: str) -> None:
    train, valid = (part.matrix() for part in NUMBERS)
    evaluate = utility_of(estimator, *NUMBERS, scoring, 0).evaluator()
    expected = get_scorer("neg_mean_squared_error" if scoring == "auto" else scoring)
    fitted = estimator.fit(train.X[ROWS], train.y[ROWS])
    assert evaluate(ROWS) == pytest.approx(expected(fitted, valid.X, valid.y), abs=1e-9)
    mean = train.y.mean()
    nobody = evaluate(np.zeros(40, bool))
    assert np.isfinite(nobody)
    if scoring == "auto":
        assert nobody == pytest.approx(-np.square(valid.y - mean).mean())


@pytest.mark.parametrize("scoring", ["accuracy", "neg_log_loss", "f1_macro", brier])
def test_empty_sets_and_single_classes_are_worth_their_prior(scoring: Any) -> None:
    evaluate = utility_of(LogisticRegression(), TRAIN, VALID, scoring, 0).evaluator()
    nobody, ones = np.zeros(40, bool), Y == 1
    few = np.isin(np.arange(40), np.flatnonzero(ones)[:2])
    for rows in (nobody, ones, few):
        assert np.isfinite(evaluate(rows))
    if scoring == "accuracy":
        assert evaluate(nobody) == pytest.approx(1 / 3)
        assert evaluate(ones) == pytest.approx((YV == 1).mean())
    if scoring == "neg_log_loss":
        assert evaluate(nobody) == pytest.approx(-np.log(3))
        p = np.array([1, 3, 1]) / 5
        assert evaluate(few) == pytest.approx(np.log(p[YV]).mean())


def test_an_estimator_that_refuses_small_sets_gets_the_prior_and_is_counted() -> None:
    class Fussy(KNeighborsClassifier):
        def fit(self, X: Any, y: Any) -> Any:
            if len(X) < 10:
                raise ValueError("too few")
            return super().fit(X, y)

    evaluate = utility_of(Fussy(), TRAIN, VALID, "accuracy", 0).evaluator()
    rows = np.isin(np.arange(40), [*np.flatnonzero(Y == 2)[:3], np.flatnonzero(Y == 0)[0]])
    assert evaluate(rows) == pytest.approx((YV == 2).mean())
    assert evaluate.failed == 1
    evaluate(ROWS)
    assert evaluate.failed == 1


def test_without_probabilities_the_accuracy_is_enough() -> None:
    assert 0.3 < utility_of(LinearSVC(), TRAIN, VALID, "accuracy", 0).evaluator()(ROWS) <= 1


def test_the_fingerprint_is_content() -> None:
    def fingerprint(
        model: Any = None, train: Any = TRAIN, on: Any = VALID, scoring: Any = "accuracy", seed: int = 0
    ) -> str:
        return utility_of(RandomForestClassifier(5) if model is None else model, train, on, scoring, seed).fingerprint()

    usual = fingerprint()
    assert usual == fingerprint(RandomForestClassifier(5), assay.read((X.copy(), Y)), assay.read((XV.copy(), YV)))
    changed = X.copy()
    changed[0, 0] += 1e-9
    others = [
        fingerprint(RandomForestClassifier(6)), fingerprint(train=assay.read((changed, Y))), fingerprint(on=TRAIN),
        fingerprint(scoring="neg_log_loss"), fingerprint(seed=1), fingerprint(scoring=brier),
        fingerprint(scoring=lambda model, X, y: 0.0), fingerprint(scoring=lambda model, X, y: 1.0),
    ]  # fmt: skip
    assert len({usual, *others}) == 1 + len(others)


def test_a_recipe_is_worth_its_negated_validation_loss() -> None:
    torch.manual_seed(0)
    recipe = assay.Recipe(nn.Linear(5, 3).double(), assay.tasks.Classify(), optimizer="sgd", lr=0.1, batch_size=10)
    utility = utility_of(recipe, TRAIN, VALID, "auto", 0)
    evaluate = utility.evaluator()
    run = recipe.train(TRAIN, ROWS.astype(float))
    assert evaluate(ROWS) == pytest.approx(-float(run.loss_of(VALID).mean()))
    assert np.isfinite(evaluate(np.zeros(40, bool)))
    assert utility.fingerprint() == utility_of(recipe, TRAIN, VALID, "auto", 0).fingerprint()
    assert utility.fingerprint() != utility_of(recipe, TRAIN, VALID, "auto", 1).fingerprint()
    values = assay.value(recipe, TRAIN, VALID, Shapley(by="label"))
    everybody, nobody = evaluate(np.ones(40, bool)), evaluate(np.zeros(40, bool))
    assert values.array.sum() == pytest.approx(everybody - nobody)
    with pytest.raises(MethodError, match="negated mean loss"):
        utility_of(recipe, TRAIN, VALID, "accuracy", 0)


def test_a_table_with_categories_goes_to_a_pipeline_by_column_and_to_a_named_model() -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"size": random.normal(size=60), "kind": random.choice(["a", "b"], 60)})
    frame.loc[3, "size"] = np.nan
    frame["y"] = np.where((frame["size"].fillna(0) > 0) ^ (frame["kind"] == "a"), "yes", "no")
    train, valid = assay.read(frame[:30], label="y"), assay.read(frame[30:], label="y")
    columns = ColumnTransformer([("k", OneHotEncoder(), ["kind"])], remainder="drop")
    pipeline = make_pipeline(columns, LogisticRegression())
    rows = np.arange(30) < 20
    expected = pipeline.fit(frame[["size", "kind"]][:20], frame["y"][:20]).score(
        frame[["size", "kind"]][30:], frame["y"][30:]
    )
    assert utility_of(pipeline, train, valid, "accuracy", 0).evaluator()(rows) == pytest.approx(expected)
    named = utility_of("logistic", train, valid, "accuracy", 0)
    assert isinstance(named, EstimatorUtility)
    assert named.data.X.shape == (30, 3)
    assert 0 <= named.evaluator()(rows) <= 1
    with pytest.raises(DataError, match="no column 'kind'"):
        utility_of("logistic", train, assay.read(frame.drop(columns="kind")[30:], label="y"), "accuracy", 0)


def test_models_by_name() -> None:
    classes, numbers = np.array(["a", "b"]), np.array([0.5, 1.0])
    assert isinstance(estimator_of("linear", classes), LogisticRegression)
    assert isinstance(estimator_of("linear", numbers), Ridge)
    own = estimator_of("sklearn.neighbors:KNeighborsClassifier(n_neighbors=3, metric='cosine')", classes)
    assert (own.n_neighbors, own.metric) == (3, "cosine")
    for name, y, message in (
        ("ridge", classes, "does not fit labels that are classes"), ("logistc", classes, "Did you mean 'logistic'"),
        ("sklearn.nothing:Thing", classes, "cannot be made"), ("sklearn.svm:SVC(C=open('x'))", classes, "cannot be made"),
        ("sklearn.svm:SVC(2)", classes, "without a name"), ("os:system('true')", classes, "without a name"),
    ):  # fmt: skip
        with pytest.raises(MethodError, match=message):
            estimator_of(name, y)


@pytest.mark.parametrize(
    ("model", "scoring", "message"),
    [
        (LogisticRegression(), "acuracy", "Did you mean 'accuracy'"),
        (GridSearchCV(LogisticRegression(), {"C": [1.0]}), "accuracy", "searches for parameters"),
        (StandardScaler(), "accuracy", r"Cannot train|neither"),
    ],
)
def test_what_is_refused(model: Any, scoring: str, message: str) -> None:
    with pytest.raises(MethodError, match=message):
        utility_of(model, TRAIN, VALID, scoring, 0)
