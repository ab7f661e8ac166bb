"""Leave-one-out correlation and removal against loops and numbers worked out by hand."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from tests.evaluate.metrics.made_up import scores_of, truth_of

from assay.errors import MethodError
from assay.evaluate import leave_one_out, removal

N, Q = 20, 6


def left_out(rows: list[int]) -> np.ndarray:
    masks = np.ones((len(rows), N), dtype=np.bool_)
    masks[np.arange(len(rows)), rows] = False
    return masks


def test_leave_one_out_is_the_naive_loop() -> None:
    rng = np.random.default_rng(0)
    rows = rng.permutation(N)[:12].tolist()
    scores, losses, full = rng.normal(size=(N, Q)).astype(np.float32), rng.normal(size=(12, Q)), rng.normal(size=Q)
    found = leave_one_out(scores_of(scores), truth_of(left_out(rows), losses, full))
    for q in range(Q):
        true = [losses[j, q] - full[q] for j in range(12)]
        given = [float(scores[row, q]) for row in rows]
        assert found.per_query["made-up"][q] == pytest.approx(spearmanr(given, true).statistic)
    pearson = np.mean([pearsonr(scores[rows, q], losses[:, q] - full[q]).statistic for q in range(Q)])
    assert found.facts["pearson"]["made-up"] == pytest.approx(pearson)


def test_a_perfect_and_a_random_predictor_of_leaving_one_out() -> None:
    rng = np.random.default_rng(1)
    scores, full = rng.normal(size=(N, Q)).astype(np.float32), rng.normal(size=Q)
    truth = truth_of(left_out(list(range(N))), full + 2.0 * scores.astype(np.float64), full)
    found = leave_one_out([scores_of(scores), scores_of(rng.normal(size=(N, Q)), "random")], truth)
    assert found.mean == pytest.approx(1.0)
    assert found.facts["slope"]["made-up"] == pytest.approx(2.0)
    assert found.rows["random"].low < 0 < found.rows["random"].high


def test_leave_one_out_refuses_other_subsets() -> None:
    masks = left_out(list(range(12)))
    masks[3, 5:9] = False
    with pytest.raises(MethodError, match="leave out one example each"):
        leave_one_out(scores_of(np.eye(N, Q)), truth_of(masks, np.random.default_rng(0).normal(size=(12, Q))))


def top_truth(rows: list[list[int]], losses: np.ndarray, full: np.ndarray) -> object:
    masks = np.ones((len(rows), N), dtype=np.bool_)
    for q, removed in enumerate(rows):
        masks[q, removed] = False
    return truth_of(masks, losses, full)


def test_removal_by_hand() -> None:
    """Three queries: the loss of query q after its own top was taken out, less that with everything."""
    full = np.array([1.0, 2.0, 3.0])
    mine = top_truth([[0, 1], [1, 2], [2, 3]], np.array([[1.5, 9, 9], [9, 2.25, 9], [9, 9, 4.0]]), full)
    other = top_truth([[5, 6]] * 3, np.array([[1.1, 9, 9], [9, 2.1, 9], [9, 9, 3.1]]), full)
    found = removal({"mine": mine, "random": other})  # type: ignore[dict-item]
    assert found.per_query["mine"].tolist() == [0.5, 0.25, 1.0]
    assert found.mean == pytest.approx(1.75 / 3)
    assert found.against["random"].mean == pytest.approx(1.75 / 3 - 0.1)
    assert found.better("random") == 1.0
    assert found.facts["k"] == 2


def test_removal_refuses_what_cannot_be_compared() -> None:
    full, losses = np.zeros(3), np.random.default_rng(0).normal(size=(3, 3))
    mine = top_truth([[0, 1], [1, 2], [2, 3]], losses, full)
    with pytest.raises(MethodError, match="leave out 1 to 2 examples"):
        removal({"mine": mine, "other": top_truth([[0], [1], [2]], losses, full)})  # type: ignore[dict-item]
    with pytest.raises(MethodError, match="2 subsets for 3 queries"):
        removal({"mine": top_truth([[0, 1], [1, 2]], losses[:2], full)})  # type: ignore[dict-item]
    with pytest.raises(MethodError, match="No truth"):
        removal({})
