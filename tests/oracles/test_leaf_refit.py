"""LeafRefit against a NumPy booster with fixed splits, trained with the row's weight at zero."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from tests.trees import LOSSES, Toy

from assay.methods.trees import leaf_refit


@pytest.mark.parametrize("name", LOSSES)
def test_it_is_the_run_without_the_row(name: str) -> None:
    toy = Toy(name)
    found, full = toy.scores("leaf-refit"), toy.losses(toy.weight)
    for i in range(0, len(toy.y), 4):
        weight = toy.weight.copy()
        weight[i] = 0
        np.testing.assert_allclose(found[i], toy.losses(weight) - full, rtol=1e-8, atol=1e-11)


def test_removing_nothing_changes_nothing() -> None:
    toy = Toy("logistic").unscored()
    found = toy.scores("leaf-refit")
    assert (found[3] == 0).all()
    assert (found[:3] != 0).any()


def test_a_leaf_without_rows_adds_nothing() -> None:
    """A row alone in its leaf, no l2: the query that shares the leaf loses the whole value."""
    toy = Toy("squared", weighted=False)
    run = toy.replay()
    found = np.concatenate(leaf_refit.refitted(run), 1)
    assert found.shape == (6 * 4, 40)
    assert np.isfinite(found).all()


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Toy("coupled")
    found = toy.scores("leaf-refit")
    monkeypatch.setattr(leaf_refit, "BLOCK", 3 * 40 * 3)
    np.testing.assert_allclose(toy.scores("leaf-refit"), found, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("method", "least"), [("leaf-influence", 0.99), ("boostin", 0.7), ("tracin-trees", 0.7)])
def test_first_order_methods_approach_it(method: str, least: float) -> None:
    """At this seed; per query, Spearman over the rows."""
    toy = Toy("logistic", n=120, rounds=15)
    truth, found = toy.scores("leaf-refit"), toy.scores(method)
    assert np.mean([spearmanr(truth[:, q], found[:, q]).statistic for q in range(5)]) > least
