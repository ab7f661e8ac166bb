"""AME on games whose effects are known."""

import numpy as np
import pytest
from scipy.stats import spearmanr

import assay
from assay.methods import AME
from assay.methods.retrain.ame import RATES, drawn, regressors, spread
from assay.methods.retrain.game import Function

effects = np.array([3.0, 0.0, -2.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.5, 0.0])
DATA = (np.zeros((10, 2)), np.zeros(10))


def test_effects_of_an_additive_game() -> None:
    game = Function(10, lambda rows: float(effects[rows].sum()))
    values = assay.value(game, DATA, method=AME(subsets=4000, penalty=0.0)).array
    assert np.abs(values - effects).max() < 0.2  # standard error of a coefficient: about 0.05
    sparse = assay.value(game, DATA, method=AME(subsets=1000)).array
    assert spearmanr(sparse, effects).statistic > 0.8


def test_least_squares_on_utilities_without_the_mean_of_their_rate() -> None:
    """A plain transcription; the size of a set counts for much more here than who is in it."""
    game = Function(10, lambda rows: float(100 * rows.mean() ** 2 + effects[rows].sum()))
    found = assay.value(game, DATA, method=AME(subsets=60, penalty=0.0, seed=3)).array
    rates, masks = drawn(10, 60, 3)
    utilities = np.array([100 * mask.mean() ** 2 + effects[mask].sum() for mask in masks])
    centred = np.array([u - utilities[rates == p].mean() for u, p in zip(utilities, rates, strict=True)])
    rows = [[1 / p if inside else -1 / (1 - p) for inside in mask] for mask, p in zip(masks, rates, strict=True)]
    slopes = np.linalg.lstsq(np.array(rows), centred, rcond=None)[0]
    np.testing.assert_allclose(found, slopes * np.mean([1 / (p * (1 - p)) for p in RATES]), atol=1e-9)


def test_a_pair_that_works_together() -> None:
    """U = 1 where both are in: each adds the rate of the other, 1/2 on average over the rates."""
    game = Function(10, lambda rows: float(rows[0] and rows[1]))
    values = assay.value(game, DATA, method=AME(subsets=8000, penalty=0.0)).array
    assert values[:2] == pytest.approx(np.full(2, np.mean(RATES)), abs=0.05)
    assert np.abs(values[2:]).max() < 0.05


def test_regressors_are_centred_at_every_rate_with_the_spread_that_scales_them() -> None:
    rates, masks = drawn(3, 200_000, 0)
    found = regressors(rates, masks)
    assert np.abs(found.mean(0)).max() < 0.02
    assert found.var(0) == pytest.approx(np.full(3, spread()), rel=0.02)
