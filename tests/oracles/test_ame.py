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
