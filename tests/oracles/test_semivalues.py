"""Semivalues against brute force, closed forms and their axioms; samplers against exact values and their own errors."""

from math import comb
from typing import Any

import numpy as np
import pytest
from tests.methods.retrain import games

from assay.methods import Banzhaf, BetaShapley, LeastCore, LeaveOneOut, OwenShapley, Shapley
from assay.methods.retrain.beta_shapley import beta_weights
from assay.methods.retrain.estimate import Marginals, Reused
from assay.methods.retrain.exact import masks
from assay.methods.retrain.game import Game
from assay.methods.retrain.samplers import MARGINAL, Walk
from assay.methods.retrain.semivalue import SAMPLERS, horizon, sampler_of

EXACT = {
    "shapley": (Shapley(), games.shapley_weight),
    "banzhaf": (Banzhaf(), games.banzhaf_weight),
    "beta 16 1": (BetaShapley(), games.beta_weight(16, 1)),
    "beta 4 1": (BetaShapley(alpha=4), games.beta_weight(4, 1)),
    "beta 1 4": (BetaShapley(alpha=1, beta=4), games.beta_weight(1, 4)),
    "beta 1 1": (BetaShapley(alpha=1), games.shapley_weight),
}


@pytest.mark.parametrize("n", [2, 3, 8])
@pytest.mark.parametrize("name", EXACT)
def test_exact_values_are_brute_force(name: str, n: int) -> None:
    method, weight = EXACT[name]
    utility = games.random_game(n)
    values = games.run(utility, method)
    np.testing.assert_allclose(values.array, games.brute_force(utility, weight), atol=1e-12)
    assert values.stderr is None
    assert "exact" in values.provenance.notes[0]


def test_closed_forms() -> None:
    runway, shares = games.airport()
    np.testing.assert_allclose(games.run(runway, Shapley()).array, shares, atol=1e-12)
    votes, shapley, banzhaf = games.voting()
    np.testing.assert_allclose(games.run(votes, Shapley()).array, shapley, atol=1e-12)
    np.testing.assert_allclose(games.run(votes, Banzhaf()).array, banzhaf, atol=1e-12)
    alike, share = games.symmetric(7)
    np.testing.assert_allclose(games.run(alike, Shapley()).array, share, atol=1e-12)


def test_axioms() -> None:
    """Efficiency, symmetry, the null player, linearity."""
    n = 7

    def first(mask: np.ndarray) -> float:  # players 0 and 1 alike, player 6 idle
        return float(mask[:2].sum() ** 2 + np.sin(mask[2:6] @ [1.0, 2.0, 3.0, 4.0]))

    def second(mask: np.ndarray) -> float:
        return float(np.cos(mask @ np.arange(n)))

    one, two = (games.run(games.game(n, f, f.__name__), Shapley()).array for f in (first, second))
    both = games.run(games.game(n, lambda mask: first(mask) + 2 * second(mask), "both"), Shapley()).array
    everybody, nobody = np.ones(n, bool), np.zeros(n, bool)
    assert one.sum() == pytest.approx(first(everybody) - first(nobody), abs=1e-12)
    assert one[0] == pytest.approx(one[1], abs=1e-12)
    assert one[6] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(both, one + 2 * two, atol=1e-12)


def test_beta_weights_are_the_papers() -> None:
    np.testing.assert_allclose(beta_weights(6, 4, 1), [2.667, 1.667, 0.952, 0.476, 0.190, 0.048], atol=5e-4)
    for n, a, b in ((1, 16, 1), (6, 4, 1), (500, 16, 1), (500, 1, 16), (20_000, 4, 1)):
        assert beta_weights(n, a, b).sum() == pytest.approx(n, rel=1e-9)
    np.testing.assert_allclose(beta_weights(50, 1, 1), 1.0)
    for name, (method, weight) in EXACT.items():
        found = method.weights(9) / 9 / np.array([comb(8, s) for s in range(9)])
        np.testing.assert_allclose(found, [weight(9, s) for s in range(9)], rtol=1e-9, err_msg=name)
    assert horizon(np.ones(10)) == 10
    assert horizon(beta_weights(1000, 16, 1)) == pytest.approx(438, abs=5)


def test_banzhaf_values_are_least_squares_slopes_over_all_subsets() -> None:
    utility, n = games.random_game(8), 8
    coalitions = masks(np.arange(2**n), n)
    design = np.hstack([coalitions, np.ones((2**n, 1))])
    worth = [utility.function(mask) for mask in coalitions]
    slopes = np.linalg.lstsq(design, worth, rcond=None)[0][:n]
    np.testing.assert_allclose(games.run(utility, Banzhaf()).array, slopes, atol=1e-12)


# -- samplers ----------------------------------------------------------------------------------------------------------


PAIRS = [(name, sampler) for name in ("shapley", "banzhaf", "beta 4 1") for sampler in SAMPLERS] + [("banzhaf", "msr")]


def sampled(name: str, sampler: str, updates: int, seed: int, n: int = 6) -> Any:
    """The estimator after so many draws of the random game, whose utilities are looked up."""
    drawing, bits = sampler_of(sampler), 1 << np.arange(n)
    weights = EXACT[name][0].weights(n)
    estimator = Reused(n) if sampler == "msr" else Marginals(n, weights / (n * drawing.sizes(n)))
    for number in range(updates):
        units = drawing.draw(n, seed, number)
        masks_of = [np.array([mask.copy() for mask in unit.coalitions()]) for unit in units]
        estimator.add(units, [games.TABLE[found @ bits] for found in masks_of])
    return estimator


@pytest.mark.parametrize(("name", "sampler"), PAIRS)
def test_every_sampler_comes_to_every_semivalue(name: str, sampler: str) -> None:
    """Within 4.5 of its own standard errors, and 1.8 in root mean square, over 6 players."""
    found, truth = sampled(name, sampler, 400, 1), games.brute_force(games.random_game(6), EXACT[name][1])
    off = (found.values - truth) / found.stderr
    assert np.abs(off).max() < 4.5
    assert np.sqrt(np.mean(off**2)) < 1.8
    assert found.stderr.max() < 0.3
    assert (found.counts >= 400).all()


def test_each_untruncated_permutation_sums_to_the_whole() -> None:
    utility = games.random_game(9)
    for updates in (1, 2, 7):
        for sampler in ("permutation", "antithetic"):
            method = Shapley(sampler=sampler, stop=f"updates:{updates}", tolerance=0, exact=0)
            total = utility.function(np.ones(9, bool)) - utility.function(np.zeros(9, bool))
            assert games.run(utility, method).array.sum() == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("kind", MARGINAL, ids=lambda kind: kind.name)
def test_samplers_say_how_often_they_meet_each_size(kind: Any) -> None:
    n, draws, sampler = 6, 2100, kind()
    met = np.zeros((n, n))
    for number in range(draws):
        for unit in sampler.draw(n, 0, number):
            if isinstance(unit, Walk):
                met[unit.order, np.arange(n)] += 1
            else:
                met[unit.players, unit.base.sum() - unit.base] += 1
    share = met / met.sum(1, keepdims=True)
    assert sampler.sizes(n).sum() == pytest.approx(1)
    spread = np.sqrt(sampler.sizes(n) / draws)
    assert (np.abs(share - sampler.sizes(n)) < 4.5 * spread).all()


def test_a_draw_depends_on_seed_and_number_alone() -> None:
    for name in (*SAMPLERS, "msr"):
        sampler = sampler_of(name)

        def drawn(seed: int, number: int, sampler: Any = sampler) -> list[list[bool]]:
            return [mask.copy().tolist() for unit in sampler.draw(9, seed, number) for mask in unit.coalitions()]

        assert drawn(1, 3) == drawn(1, 3)
        assert drawn(1, 3) != drawn(2, 3)
        assert drawn(1, 3) != drawn(1, 4)


def test_antithetic_pairs_and_owen_beat_single_permutations_on_a_smooth_game() -> None:
    """Utilities that grow with the square root of the number: early joiners earn more, and pairs cancel that."""
    utility, share = games.symmetric(12)
    errors = {}
    for sampler, updates in (("permutation", 60), ("antithetic", 30)):
        found = games.run(utility, Shapley(sampler=sampler, stop=f"updates:{updates}", tolerance=0, exact=0))
        errors[sampler] = float(np.sqrt(np.mean((found.array - share) ** 2)))
    assert errors["antithetic"] < 0.7 * errors["permutation"]


def test_an_antithetic_pair_cancels_what_is_linear_in_the_place() -> None:
    """Of the squared number a joiner at place k earns 2k + 1, in the reverse 2(n - 1 - k) + 1: n, for everybody, at once."""
    squares = games.game(12, lambda mask: float(mask.sum()) ** 2, "squares")
    found = games.run(squares, Shapley(sampler="antithetic", stop="updates:1", tolerance=0, exact=0))
    np.testing.assert_allclose(found.array, 12.0, atol=1e-12)


@pytest.mark.parametrize("sampler", ["permutation", "antithetic", "msr"])
def test_standard_errors_cover_the_truth(sampler: str) -> None:
    """Of 95% intervals, over 50 seeds and 6 players, 90 to 99% hold."""
    name = "banzhaf" if sampler == "msr" else "shapley"
    truth = games.brute_force(games.random_game(6), EXACT[name][1])
    runs = [sampled(name, sampler, 6 if sampler == "msr" else 60, seed) for seed in range(50)]
    inside = [np.abs(found.values - truth) <= 1.96 * found.stderr for found in runs]
    assert 0.90 < np.mean(inside) < 0.99


def test_truncation_is_relative_to_the_size_of_the_range() -> None:
    """A whole that is worth less than nothing truncates no sooner than one that is worth something."""
    n = 30

    def saturating(mask: np.ndarray) -> float:
        return float(1 - 0.5 ** mask.sum())

    plus, minus = games.game(n, saturating, "plus"), games.game(n, lambda mask: -saturating(mask), "minus")
    one, other = (games.run(g, Shapley(stop="updates:8", sampler="permutation")) for g in (plus, minus))
    np.testing.assert_allclose(one.array, -other.array)
    share = 1 - (7 + 4) / n  # 0.5^7 < 1%, and five in a row
    for found in (one, other):
        assert f"{share:.1%} of the marginal contributions were left out" in found.provenance.notes[1]
    whole = saturating(np.ones(n, bool))
    assert abs(one.array.sum() - whole) < 0.01 * whole
    full = games.run(plus, Shapley(stop="updates:8", sampler="permutation", tolerance=0))
    assert full.array.sum() == pytest.approx(whole)
    assert not any("left out" in note for note in full.provenance.notes)


# -- relatives ---------------------------------------------------------------------------------------------------------


def test_leave_one_out_is_its_definition() -> None:
    utility, n = games.random_game(9), 9
    everybody = np.ones(n, bool)
    expected = [utility.function(everybody) - utility.function(np.arange(n) != i) for i in range(n)]
    np.testing.assert_allclose(games.run(utility, LeaveOneOut()).array, expected, atol=1e-12)


def test_owen_integrates_exactly_and_samples_within_its_error() -> None:
    runway, shares = games.airport()
    found = games.run(runway, OwenShapley(nodes=4, stop="updates:80"))
    assert np.abs((found.array - shares) / found.stderr).max() < 4.5
    assert found.stderr.max() < 0.4
    assert found.array.sum() == pytest.approx(7.5, abs=1.0)


def test_the_least_core_is_the_linear_programs() -> None:
    from scipy.optimize import linprog

    utility, n = games.random_game(6), 6
    found = games.run(utility, LeastCore()).array
    coalitions = masks(np.arange(1, 2**n - 1), n)
    empty, whole = (utility.function(np.full(n, side)) for side in (False, True))
    worth = np.array([utility.function(mask) - empty for mask in coalitions])
    solved = linprog(
        np.r_[np.zeros(n), 1], A_ub=np.hstack([-coalitions.astype(float), -np.ones((len(worth), 1))]), b_ub=-worth,
        A_eq=[[1] * n + [0]], b_eq=[whole - empty], bounds=[(None, None)] * (n + 1),
    )  # fmt: skip
    e = solved.x[-1]
    assert found.sum() == pytest.approx(whole - empty, abs=1e-8)
    assert (worth - coalitions @ found).max() == pytest.approx(e, abs=1e-6)
    assert np.linalg.norm(found) <= np.linalg.norm(solved.x[:n]) + 1e-8


def test_the_least_core_of_equals_is_equal() -> None:
    alike, share = games.symmetric(6)
    np.testing.assert_allclose(games.run(alike, LeastCore()).array, share, atol=1e-8)
    # Of gloves, the scarce one gets everything.
    gloves = games.game(3, lambda mask: float(mask[0] and mask[1:].any()), "gloves")
    np.testing.assert_allclose(games.run(gloves, LeastCore()).array, [1, 0, 0], atol=1e-7)


def test_of_the_least_core_the_shortest_and_above_the_empty_set() -> None:
    """Pairs ask for 0.9 and 0.5 of 1: each goes 0.2 short, and within a pair anything would do. The empty set is worth 3."""
    worth = {(0, 1): 0.9, (2, 3): 0.5, (0, 1, 2, 3): 1.0, (): 0.0}
    pairs = games.game(4, lambda mask: 3.0 + worth.get(tuple(np.flatnonzero(mask).tolist()), -10.0), "pairs")
    found = games.run(pairs, LeastCore())
    np.testing.assert_allclose(found.array, [0.35, 0.35, 0.15, 0.15], atol=1e-6)
    assert "at least its worth less 0.2." in found.provenance.notes[0]


def test_sampled_least_core_pays_the_sampled_coalitions() -> None:
    utility, n = games.random_game(9), 9
    found = games.run(utility, LeastCore(exact=0, subsets=160))
    e = float(found.provenance.notes[0].split()[-1].rstrip("."))
    coalitions = masks(np.arange(1, 2**n - 1), n)
    empty = utility.function(np.zeros(n, bool))
    short = np.array([utility.function(m) - empty - m @ found.array for m in coalitions])
    assert (short > e + 1e-6).mean() < 0.2


def test_groups_are_players() -> None:
    utility = games.random_game(9)
    names = ("a", "b", "a", "c", "b", "a", "d", "d", "a")
    found = games.run(utility, Shapley(by=names))
    assert list(found.ids) == ["a", "b", "c", "d"]
    member = np.array([list(found.ids).index(name) for name in names])
    quotient = games.game(4, lambda mask: utility.function(mask[member]), "quotient")
    np.testing.assert_allclose(found.array, games.brute_force(quotient, games.shapley_weight), atol=1e-12)
    assert Game(utility, member).players == 4
