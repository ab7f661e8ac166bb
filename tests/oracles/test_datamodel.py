"""Datamodels: additive utilities are met exactly; without penalty they are Banzhaf values."""

import numpy as np
import pytest
from tests.methods.retrain import games

from assay.methods import Banzhaf, Datamodel


def test_an_additive_utility_is_met_exactly() -> None:
    utility, worth = games.additive(10)
    found = games.run(utility, Datamodel(penalty=0.0, subsets=60))
    np.testing.assert_allclose(found.array, worth, atol=1e-10)
    assert "R^2 on held-out subsets: 1.000" in found.provenance.notes[0]


def test_without_penalty_it_tends_to_banzhaf() -> None:
    utility = games.random_game(5)
    exact = games.run(utility, Banzhaf()).array
    off = [np.abs(games.run(utility, Datamodel(penalty=0.0, subsets=m)).array - exact).max() for m in (60, 2_400)]
    assert off[1] < 0.1
    assert off[1] < off[0]


def test_the_penalty_leaves_out_who_does_nothing() -> None:
    utility = games.game(20, lambda mask: float(2 * mask[3] - mask[7]), "two")
    found = games.run(utility, Datamodel(subsets=120)).array
    assert found[3] == pytest.approx(2, abs=0.1)
    assert found[7] == pytest.approx(-1, abs=0.1)
    assert np.abs(np.delete(found, [3, 7])).max() < 0.02


def test_noise_has_no_held_out_fit() -> None:
    found = games.run(
        games.game(9, lambda mask: float(games.TABLE[int(mask @ (1 << np.arange(9)))]), "noise"), Datamodel()
    )
    assert float(found.provenance.notes[0].split()[-1].rstrip(".")) < 0.3
