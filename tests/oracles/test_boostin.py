"""BoostIn against loops, and against LeafInfluence for one tree, where both are the same derivative."""

import numpy as np
import pytest
from tests.trees import ETA, L2, LOSSES, Toy, derivatives, outputs_of, predict

from assay.methods import LeafInfluence


def transcribed(toy: Toy, curved: bool) -> np.ndarray:
    """The sum over rounds, row by row and query by query."""
    found = np.zeros((len(toy.y), len(toy.yq)))
    for r, values in enumerate(toy.rounds):
        f, fq = (predict(toy.rounds[:r], leaves, toy.start) for leaves in (toy.leaves, toy.leavesq))
        f, fq = np.broadcast_to(f, (len(f) if f.ndim > 1 else len(toy.y), len(toy.start))), np.broadcast_to(
            fq, (len(toy.yq), len(toy.start)))  # fmt: skip
        g, h = derivatives(toy.name, f, toy.y)
        gq, _ = derivatives(toy.name, fq, toy.yq)
        for i in range(len(toy.y)):
            for q in range(len(toy.yq)):
                if toy.name == "coupled":
                    leaf = toy.leaves[i, r, 0]
                    if leaf == toy.leavesq[q, r, 0]:
                        rows = toy.leaves[:, r, 0] == leaf
                        H = (toy.weight[rows, None, None] * h[rows]).sum(0) + L2 * np.eye(3)
                        pull = g[i] + h[i] @ values[leaf] / ETA * curved
                        found[i, q] += gq[q] @ np.linalg.solve(H, pull) * ETA * toy.weight[i]
                    continue
                for c in range(len(toy.start)):
                    leaf = toy.leaves[i, r, c]
                    if leaf == toy.leavesq[q, r, c]:
                        rows = toy.leaves[:, r, c] == leaf
                        H = (toy.weight[rows] * h[rows, c, c]).sum() + L2
                        pull = g[i, c] + values[leaf, c] / ETA * h[i, c, c] * curved
                        found[i, q] += gq[q, c] * ETA * toy.weight[i] * pull / H
    return found


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "steps"])
@pytest.mark.parametrize("method", ["boostin", "tracin-trees"])
def test_it_is_the_sum_over_rounds(name: str, method: str) -> None:
    toy = Toy(name)
    np.testing.assert_allclose(toy.scores(method), transcribed(toy, method == "boostin"), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", [name for name in LOSSES if outputs_of(name) == 1])
def test_one_tree_is_leaf_influence(name: str) -> None:
    """Up to the query's gradient, which LeafInfluence takes after the tree."""
    toy = Toy(name, rounds=1)
    before = derivatives(name, np.broadcast_to(toy.start, (5, 1)), toy.yq)[0][:, 0]
    after = derivatives(name, predict(toy.rounds, toy.leavesq, toy.start), toy.yq)[0][:, 0]
    expected = toy.scores(LeafInfluence())
    np.testing.assert_allclose(toy.scores("boostin") * after / before, expected, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(toy.scores(LeafInfluence(update="single-point")), expected, rtol=1e-9, atol=1e-13)


def test_without_curvature_it_is_tracin() -> None:
    """Residuals of opposite sign in each leaf: v = 0, so the term with h vanishes."""
    toy = Toy("squared", rounds=1, weighted=False)
    toy.leaves[20:] = toy.leaves[:20]
    toy.y[20:] = 2 * toy.start[0] - toy.y[:20]
    toy.rounds = [np.zeros((4, 1))]
    boostin = toy.scores("boostin")
    assert np.abs(boostin).max() > 0.01
    np.testing.assert_allclose(toy.scores("tracin-trees"), boostin, rtol=1e-9, atol=1e-12)
