"""LeafInfluence against finite differences of row weights in a NumPy booster with fixed splits, and CatBoost's own."""

import numpy as np
import pytest
from scipy.stats import pearsonr
from tests.trees import ETA, L2, LOSSES, Toy

import assay
from assay.errors import MethodError
from assay.methods import LeafInfluence
from assay.methods.trees import leaf_influence


@pytest.mark.parametrize("name", LOSSES)
def test_it_is_the_derivative_in_a_rows_weight(name: str) -> None:
    toy, h = Toy(name), 1e-4
    found = toy.scores(LeafInfluence())
    for i in range(0, len(toy.y), 3):
        moved = [toy.weight.copy() for _ in range(4)]
        for weight, step in zip(moved, (2, 1, -1, -2), strict=True):
            weight[i] *= 1 + step * h  # w_i = 1 + step h, the sample weight stays
        far, near, back, farback = (toy.losses(weight) for weight in moved)
        expected = -(-far + 8 * near - 8 * back + farback) / (12 * h)
        np.testing.assert_allclose(found[i], expected, atol=1e-7 * np.abs(expected).max() + 1e-10)


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Toy("softmax")
    found = toy.scores(LeafInfluence())
    monkeypatch.setattr(leaf_influence, "BLOCK", 3 * 3 * 40)
    np.testing.assert_allclose(toy.scores(LeafInfluence()), found, rtol=1e-12)


@pytest.mark.parametrize("name", ["logistic", "squared", "poisson"])
@pytest.mark.parametrize("top", [None, 1, 2])
def test_single_point_and_top_k_against_loops(name: str, top: int | None) -> None:
    """A transcription: J of all rows, the sum over followed leaves only."""
    toy = Toy(name)
    run, n = toy.replay(), len(toy.y)
    method = LeafInfluence(update="single-point") if top is None else LeafInfluence(update="top-k", leaves=top)
    found = toy.scores(method)
    loss, gq = run.loss, run.loss.gradient(run.final(_queries(toy)), toy.yq)[0]
    for i in range(0, n, 7):
        J, moved = np.zeros(n), np.zeros(5)
        for r, f in run.walk(run.read):
            leaf = toy.leaves[:, r, 0]
            g, h, k = (part[0] for part in loss.derivatives(f, toy.y))  # type: ignore[attr-defined]
            v = toy.rounds[r][:, 0] / ETA
            held = np.bincount(leaf, np.abs(J), 4)
            followed = [] if top is None else np.flatnonzero(held >= np.sort(held)[-top])  # ties all count
            dv = np.zeros(4)
            for m in range(4):
                rows = leaf == m
                denominator = (toy.weight * loss.scale * h)[rows].sum() + L2
                total = toy.weight[i] * (g[i] + v[m] * loss.scale * h[i]) if leaf[i] == m else 0.0
                if m in followed:
                    total += (toy.weight * (h + v[m] * loss.scale * k) * J)[rows].sum()
                dv[m] = -total / denominator
            J += ETA * dv[leaf]
            moved += ETA * dv[toy.leavesq[:, r, 0]]
        np.testing.assert_allclose(found[i], -gq * moved, rtol=1e-9, atol=1e-12)


def _queries(toy: Toy):
    return toy.ensemble.read(assay.read(toy.queries()), "queries")


def test_all_leaves_followed_is_all() -> None:
    toy = Toy("logistic")
    found = toy.scores(LeafInfluence(update="top-k", leaves=4))
    np.testing.assert_allclose(found, toy.scores(LeafInfluence()), rtol=1e-12)
    assert np.abs(found - toy.scores(LeafInfluence(update="single-point"))).max() > 1e-4


def test_more_than_fits_in_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaf_influence, "MEMORY", 1000)
    with pytest.raises(MethodError, match="update='all'"):
        Toy("logistic").scores(LeafInfluence(update="top-k"))
    with pytest.raises(MethodError, match="boostin"):
        Toy("logistic").scores("leaf-refit")


@pytest.mark.parametrize("update", ["AllPoints", "SinglePoint"])
def test_catboost_agrees(update: str) -> None:
    """CatBoost's object importance has the opposite sign: positive raises the loss."""
    catboost = pytest.importorskip("catboost")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 4))
    y = (X[:, 0] + X[:, 1] * X[:, 2] + 0.5 * rng.normal(size=200) > 0).astype(int)
    model = catboost.CatBoostClassifier(
        n_estimators=10, depth=3, learning_rate=0.2, verbose=0, allow_writing_files=False, thread_count=1
    ).fit(X, y)
    rows, theirs = model.get_object_importance(
        catboost.Pool(X[:20], y[:20]), catboost.Pool(X, y), type="PerObject", update_method=update, thread_count=1
    )
    ours = LeafInfluence(update="all" if update == "AllPoints" else "single-point")
    found = assay.attribute(model, (X, y), (X[:20], y[:20]), ours).array
    dense = np.zeros((20, 200))
    for q in range(20):
        dense[q, np.asarray(rows[q], int)] = theirs[q]
    agreement = [pearsonr(-dense[q], found[:, q]).statistic for q in range(20)]
    assert min(agreement) > 0.99
