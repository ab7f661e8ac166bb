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


def test_the_fit_that_is_told_is_on_subsets_that_it_did_not_see() -> None:
    seen = list[tuple[np.ndarray, float]]()

    def watched(mask: np.ndarray) -> float:
        seen.append((mask.copy(), float(mask[3] - 2 * mask[4] * mask[5] + 0.3 * mask.sum() ** 0.5)))
        return seen[-1][1]

    found = games.run(games.game(20, watched, "watched"), Datamodel(penalty=0.0, subsets=50))
    told = float(found.provenance.notes[0].split()[-1].rstrip("."))
    design, worth = np.array([[1.0, *mask] for mask, _ in seen[:50]]), np.array([value for _, value in seen[:50]])
    solved = np.linalg.lstsq(design[:40], worth[:40], rcond=None)[0]
    off, spread = worth[40:] - design[40:] @ solved, worth[40:] - worth[40:].mean()
    assert told == pytest.approx(1 - (off @ off) / (spread @ spread), abs=1e-3)


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
