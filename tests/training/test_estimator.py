"""Estimators as recipes: against scikit-learn itself, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import nn

import assay.examples
from assay.errors import DataError, MethodError
from assay.models import Model
from assay.tasks import Classify
from assay.training import EstimatorRecipe, Recipe, Trainable, Trained, as_recipe
from assay.training.estimator import SMALLEST

rng = np.random.default_rng(0)
X, Xq = rng.normal(size=(40, 3)), rng.normal(size=(15, 3))
labels = (X[:, 0] + 0.3 * rng.normal(size=40) > 0).astype(int)
query_labels = (Xq[:, 0] > 0).astype(int)
targets, query_targets = X @ [1.0, 2.0, 3.0], Xq @ [1.0, 2.0, 3.0] + 1.0


def test_classifier_loss_is_scikit_learns_log_loss() -> None:
    trained = EstimatorRecipe(LogisticRegression()).train((X, labels))
    expected = LogisticRegression().fit(X, labels)
    loss = trained.loss_of((Xq, query_labels))
    assert float(loss.mean()) == pytest.approx(log_loss(query_labels, expected.predict_proba(Xq)))
    assert loss.dtype == torch.float64
    assert np.array_equal(trained.estimator.coef_, expected.coef_)


def test_regressor_loss_is_half_the_squared_error() -> None:
    loss = EstimatorRecipe(LinearRegression()).train((X, targets)).loss_of((Xq, query_targets))
    assert loss.tolist() == pytest.approx([0.5] * 15)
    both = np.stack([targets, -targets], 1)
    loss = EstimatorRecipe(LinearRegression()).train((X, both)).loss_of((Xq, np.stack([query_targets] * 2, 1)))
    assert loss.tolist() == pytest.approx((0.5 + 0.5 * (2 * query_targets - 1) ** 2).tolist())


def test_weights_are_sample_weights_and_zero_is_removal() -> None:
    weights = rng.uniform(0.5, 2.0, size=40)
    weights[[1, 5]] = 0.0
    kept = weights != 0
    trained = EstimatorRecipe(Ridge()).train((X, targets), weights)
    assert np.array_equal(trained.estimator.coef_, Ridge().fit(X[kept], targets[kept], weights[kept]).coef_)
    trained = EstimatorRecipe(KNeighborsClassifier(3)).train((X, labels), kept.astype(float))
    expected = KNeighborsClassifier(3).fit(X[kept], labels[kept])
    assert np.array_equal(trained.estimator.predict_proba(Xq), expected.predict_proba(Xq))


def test_ones_equal_none_and_one_seed_gives_one_forest() -> None:
    forest = RandomForestClassifier(5)
    recipe = EstimatorRecipe(forest)
    losses = [recipe.train((X, labels), weights).loss_of((Xq, query_labels)) for weights in (None, np.ones(40))]
    assert torch.equal(*losses)
    other = EstimatorRecipe(forest, seed=1).train((X, labels)).loss_of((Xq, query_labels))
    assert not torch.equal(losses[0], other)
    assert forest.random_state is None
    assert not hasattr(forest, "estimators_")
    fixed = EstimatorRecipe(RandomForestClassifier(5, random_state=9)).train((X, labels))
    assert fixed.estimator.random_state == 9


def test_examples_encoded_once_serve_as_examples() -> None:
    recipe = EstimatorRecipe(make_pipeline(StandardScaler(), LogisticRegression()))
    names = np.where(labels, "yes", "no")
    train, queries = recipe.encode((X, names)), recipe.encode((Xq, np.where(query_labels, "yes", "no")))
    loss = recipe.train(train).loss_of(queries)
    assert torch.equal(loss, recipe.train((X, labels)).loss_of((Xq, query_labels)))


def test_what_cannot_be_fitted_predicts_a_constant() -> None:
    recipe = EstimatorRecipe(LogisticRegression())
    nothing = recipe.train((X, labels), np.zeros(40)).loss_of((Xq, query_labels))
    assert nothing.tolist() == pytest.approx([np.log(2)] * 15)
    one = recipe.train((X, labels), (labels == 1).astype(float)).loss_of((Xq, query_labels))
    assert one.tolist() == pytest.approx([0.0 if y else -np.log(SMALLEST) for y in query_labels])
    mean = EstimatorRecipe(Ridge()).train((X, targets), np.zeros(40)).loss_of((Xq, query_targets))
    assert mean.tolist() == pytest.approx((0.5 * (query_targets - targets.mean()) ** 2).tolist())


def test_a_class_left_out_has_the_smallest_probability() -> None:
    three = np.where(X[:, 1] > 1.2, 2, labels)
    trained = EstimatorRecipe(LogisticRegression()).train((X, three), (three != 2).astype(float))
    assert trained.loss_of((Xq[:1], np.array([2]))).item() == pytest.approx(-np.log(SMALLEST))


@pytest.mark.parametrize(
    ("estimator", "y", "weights", "says"),
    [
        (KNeighborsClassifier(), labels, np.full(40, 0.5), "takes no sample_weight"),
        (LogisticRegression(), labels, -np.ones(40), "negative"),
        (LinearSVC(), labels, None, "has no predict_proba"),
        (StandardScaler(), labels, None, "neither classifier nor regressor"),
        (Ridge(), targets, np.ones(39), "shape"),
    ],
)
def test_wrong_estimators_and_weights_are_refused(estimator: Any, y: Any, weights: Any, says: str) -> None:
    with pytest.raises(MethodError, match=says):
        EstimatorRecipe(estimator).train((X, y), weights)


def test_wrong_examples_are_refused() -> None:
    recipe = EstimatorRecipe(Ridge())
    for examples, says in (
        ([{"text": "a b"}], "reads arrays"),
        (X, "no target"),
        (assay.examples.read((X, targets)).select([]), "no examples"),
    ):
        with pytest.raises(DataError, match=says):
            recipe.train(examples)


def test_as_recipe() -> None:
    recipe = Recipe(lambda: nn.Linear(3, 2), Classify())
    ridge = Ridge()
    assert as_recipe(recipe) is recipe
    assert as_recipe(as_recipe(ridge)) == EstimatorRecipe(ridge)
    for one in (recipe, as_recipe(ridge)):
        assert isinstance(one, Trainable)
        assert isinstance(one.train((X, labels)), Trained)
    for wrong, says in (
        (Ridge, "is a class"),
        (Model(nn.Linear(3, 2), Classify()), "does not say how it was trained"),
        (nn.Linear(3, 2), "Cannot train a Linear"),
        (None, "Cannot train a NoneType"),
    ):
        with pytest.raises(MethodError, match=says):
            as_recipe(wrong)
