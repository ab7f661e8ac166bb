"""Tree methods at fits without a share of the rows: the mean of what each fit gives, every row in some of them."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier

import assay
from assay.errors import MethodError
from assay.methods import BoostIn, LeafInfluence
from assay.methods.trees.without import kept_rows


def work() -> tuple[assay.EstimatorRecipe, tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(64, 3))
    y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).astype(int)
    recipe = assay.EstimatorRecipe(GradientBoostingClassifier(n_estimators=4, max_depth=2))
    return recipe, (X[:60], y[:60]), (X[60:], y[60:])


def test_the_mean_over_the_fits_that_have_the_row() -> None:
    recipe, (X, y), queries = work()
    method = LeafInfluence(removed=0.5, centres=6)
    found = assay.attribute(recipe, (X, y), queries, method)
    total, count = np.zeros((60, 4)), np.zeros(60)
    for rows in kept_rows(60, 0.5, 6, recipe.seed):
        fitted = recipe.train((X[rows], y[rows])).estimator
        total[rows] += assay.attribute(fitted, (X[rows], y[rows]), queries, "leaf-influence").array
        count[rows] += 1
    np.testing.assert_allclose(found.array, total / count[:, None], rtol=1e-6, atol=1e-9)
    assert found.provenance.parameters["removed"] == 0.5
    assert any("6 fits" in note for note in found.provenance.notes)


def test_every_row_is_left_out_equally_often() -> None:
    kept = kept_rows(60, 0.25, 8, 0)
    assert all(len(rows) == 45 for rows in kept)
    np.testing.assert_array_equal(np.bincount(np.concatenate(kept)), np.full(60, 6))


def test_nothing_removed_is_the_fit_to_all() -> None:
    recipe, train, queries = work()
    found = assay.attribute(recipe, train, queries, "boostin").array
    fitted = recipe.train(train).estimator
    np.testing.assert_array_equal(found, assay.attribute(fitted, train, queries, "boostin").array)


def test_a_fitted_model_cannot_be_fitted_without_rows() -> None:
    recipe, train, queries = work()
    fitted = recipe.train(train).estimator
    with pytest.raises(MethodError, match="EstimatorRecipe"):
        assay.attribute(fitted, train, queries, BoostIn(removed=0.5))


def test_rows_in_no_fit_are_refused() -> None:
    recipe, train, queries = work()
    with pytest.raises(MethodError, match="more centres"):
        assay.attribute(recipe, train, queries, BoostIn(removed=0.9, centres=2))
    with pytest.raises(MethodError, match="removed"):
        BoostIn(removed=1.0)
    with pytest.raises(MethodError, match="centres"):
        BoostIn(removed=0.5, centres=1)


def test_it_predicts_retraining_on_halves_better(tmp_path: Path) -> None:
    """24 random halves, retrained: the correlation with sums of scores rises (0.46 to 0.51; all seeds are fixed)."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(220, 4))
    y = (X[:, 0] + X[:, 1] * X[:, 2] + 0.5 * rng.normal(size=220) > 0).astype(int)
    train, queries = (X[:200], y[:200]), (X[200:], y[200:])
    recipe = assay.EstimatorRecipe(GradientBoostingClassifier(n_estimators=20, max_depth=3))
    kept = assay.evaluate.truth(recipe, train, queries, tmp_path, 24, processes=1)
    plain = assay.attribute(recipe, train, queries, "leaf-influence")
    centred = assay.attribute(recipe, train, queries, LeafInfluence(removed=0.5))
    assert assay.evaluate.lds(centred, kept).mean > assay.evaluate.lds(plain, kept).mean + 0.02
