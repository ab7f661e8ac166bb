"""Metrics of rankings against loops over Python sets, scikit-learn and cases by hand; and their speed."""

import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score
from tests.evaluate.metrics.made_up import scores_of, table

from assay.errors import MethodError
from assay.evaluate import cardinality, mislabelled, overlap, planted, stability, tracing
from assay.evaluate.metrics.ranks import top_mask
from assay.provenance import Provenance
from assay.ranking import TopK
from assay.scores import Scores
from assay.values import Values

N, Q, K = 40, 7, 6


def tied(seed: int = 0, shape: tuple[int, int] = (N, Q)) -> np.ndarray:
    """Scores with many ties."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)


def naive_top(column: np.ndarray, k: int) -> set[int]:
    return set(sorted(range(len(column)), key=lambda row: (-column[row], row))[:k])


def values_of(array: np.ndarray, method: str = "made-up") -> Values:
    return Values.of(array, table("train", len(array)), Provenance(method=method, parameters={}, unit="x"))


def test_the_top_is_that_of_a_sort() -> None:
    scores = tied()
    dense = top_mask(scores_of(scores), K)
    assert [set(np.flatnonzero(row)) for row in dense] == [naive_top(column, K) for column in scores.T]
    kept = TopK.of_columns(scores.T, 8)
    small = Scores.of(kept, table("train", N), table("query", Q), Provenance(method="m", parameters={}, unit="x"))
    expected = [{row for row in naive_top(column, K) if column[row] > 0} for column in scores.T]
    assert [set(np.flatnonzero(row)) for row in top_mask(small, K)] == expected
    with pytest.raises(MethodError, match="8 best"):
        top_mask(small, 9)
    with pytest.raises(MethodError, match="between 1 and 40"):
        top_mask(scores_of(scores), 41)


def test_overlap_and_stability_are_the_loops_over_sets() -> None:
    runs = [tied(seed) for seed in range(4)]
    tops = [[naive_top(column, K) for column in run.T] for run in runs]
    found = overlap(scores_of(runs[0]), {"other": scores_of(runs[1]), "same": scores_of(runs[0])}, K)
    assert found.per_query["other"] == pytest.approx([len(tops[0][q] & tops[1][q]) / K for q in range(Q)])
    assert found.rows["same"].mean == 1.0
    pairs = [(a, b) for a in range(4) for b in range(a)]
    expected = [np.mean([len(tops[a][q] & tops[b][q]) / K for a, b in pairs]) for q in range(Q)]
    assert stability([scores_of(run) for run in runs], K) == pytest.approx(expected)
    with pytest.raises(MethodError, match="different training examples"):
        overlap(scores_of(runs[0]), scores_of(runs[1][:30]), K)
    with pytest.raises(MethodError, match="two or more"):
        stability([scores_of(runs[0])], K)


def test_cardinality_is_the_loop_over_sets() -> None:
    scores = tied()
    tops = [naive_top(column, K) for column in scores.T]
    found = cardinality(scores_of(scores), K)
    assert found.facts["distinct"]["made-up"] == pytest.approx(len(set().union(*tops)) / N)
    others = [[sum(row in tops[p] for p in range(Q) if p != q) / (Q - 1) for row in tops[q]] for q in range(Q)]
    assert found.per_query["made-up"] == pytest.approx([np.mean(shares) for shares in others])
    same = cardinality(scores_of(np.repeat(scores[:, :1], Q, axis=1)), K)
    assert (same.mean, same.facts["popular"]["made-up"]) == (1.0, 1.0)
    with pytest.raises(MethodError, match="there is one"):
        cardinality(scores_of(scores[:, :1]), K)


def test_average_precision_is_scikit_learns() -> None:
    scores, relevant = tied(), np.random.default_rng(3).random((N, Q)) < 0.2
    found = planted(scores_of(scores), relevant)
    expected = [average_precision_score(relevant[:, q], scores[:, q]) for q in range(Q)]
    assert found.per_query["made-up"] == pytest.approx(expected)
    one = planted(scores_of(scores), relevant[:, 0])
    assert one.per_query["made-up"][3] == pytest.approx(average_precision_score(relevant[:, 0], scores[:, 3]))
    perfect = planted(
        [scores_of(relevant.astype(np.float32)), scores_of(-relevant.astype(np.float32), "wrong")], relevant
    )
    assert perfect.mean == 1.0
    assert perfect.rows["wrong"].mean == pytest.approx(relevant.mean(), abs=0.02)


def test_tracing_by_hand() -> None:
    """Ranks from the best: 1 2.5 2.5 4 5. Relevant: the second; then the fourth and fifth."""
    column = np.array([9.0, 5, 5, 2, 1])
    relevant = np.array([[0, 0], [1, 0], [0, 0], [0, 1], [0, 1]], dtype=np.bool_)
    found = tracing(scores_of(np.stack([column, column], 1)), relevant, k=4)
    assert found["mrr"].per_query["made-up"].tolist() == [1 / 2.5, 1 / 4]
    assert found["recall"].per_query["made-up"].tolist() == [1.0, 0.5]
    assert tracing(scores_of(np.stack([column, column], 1)), relevant, k=2)["recall"].mean == 0.0


@pytest.mark.parametrize(
    ("relevant", "says"),
    [
        (np.zeros(N, dtype=np.bool_), "7 of 7 queries have no relevant"),
        (np.ones((N, Q), dtype=np.bool_), "no other one"),
        (np.zeros(N), "float64"),
        (np.zeros((Q, N), dtype=np.bool_), "was expected"),
    ],
)
def test_relevance_that_cannot_be(relevant: np.ndarray, says: str) -> None:
    with pytest.raises(MethodError, match=says):
        planted(scores_of(tied()), relevant)


def test_constant_scores_are_refused() -> None:
    scores = tied()
    scores[:, 2] = 3.0
    with pytest.raises(MethodError, match=r"'query:2' \(1 such"):
        tracing(scores_of(scores), np.arange(N) < 5, k=3)


def test_mislabelled_is_scikit_learns_on_negated_values() -> None:
    values = tied(4)[:, 0].astype(np.float64)
    wrong = np.random.default_rng(5).random(N) < 0.3
    found = mislabelled(values_of(values), wrong, k=9)
    assert found["auc"].mean == pytest.approx(roc_auc_score(wrong, -values))
    assert found["average_precision"].mean == pytest.approx(average_precision_score(wrong, -values))
    distinct = np.random.default_rng(6).permutation(N).astype(float)
    precision = mislabelled(values_of(distinct), wrong, k=9)["precision"].mean
    assert precision == pytest.approx(np.mean([wrong[row] for row in np.argsort(distinct)[:9]]))
    by_hand = mislabelled(values_of(np.array([1.0, 2, 2, 3])), np.array([True, True, False, False]), k=2)
    assert by_hand["precision"].mean == pytest.approx(0.75)  # one certain, and one of two tied
    assert by_hand["auc"].mean == pytest.approx(3.5 / 4)


def test_mislabelled_compares_and_refuses() -> None:
    rng = np.random.default_rng(0)
    wrong = np.arange(300) < 60
    good, random = rng.normal(size=300) - 1.5 * wrong, rng.normal(size=300)
    found = mislabelled([values_of(good, "good"), values_of(random, "random")], wrong)["auc"]
    assert found.rows["random"].low < 0.5 < found.rows["random"].high
    assert found.better("random") > 0.99
    assert found.rows["good"].low < found.mean < found.rows["good"].high
    for values, mask, says in (
        (good, wrong[:-1], "shape"),
        (good, np.zeros(300, dtype=np.bool_), "0 of 300"),
        (np.ones(300), wrong, "same value"),
    ):
        with pytest.raises(MethodError, match=says):
            mislabelled(values_of(values), mask)


def test_twenty_times_faster_than_loops_over_sets() -> None:
    """Overlap of 40 queries at n = 20,000, against sorting Python lists into sets; both once, ratio of processor time."""
    one, other = (np.random.default_rng(seed).normal(size=(20_000, 40)).astype(np.float32) for seed in (0, 1))
    a, b = scores_of(one), scores_of(other)
    start = time.process_time()
    shares = overlap(a, b, 100).per_query["made-up"]
    ours = time.process_time() - start
    start = time.process_time()
    for q in range(8):
        mine, theirs = (naive_top(array[:, q], 100) for array in (one, other))
        assert shares[q] == len(mine & theirs) / 100
    assert 5 * (time.process_time() - start) > 20 * ours
