"""The linear datamodeling score against a naive transcription, by hand, and for perfect, random and wrong predictors."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from tests.evaluate.metrics.made_up import scores_of, table, truth_of

from assay.errors import InputError, MethodError
from assay.evaluate import lds
from assay.evaluate.metrics.lds import ceiling, predictions, pseudo_values, spearman
from assay.ranking import TopK
from assay.scores import Scores

N, Q, M = 60, 15, 40


def masks(count: int = M, n: int = N, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    kept = np.zeros((count, n), dtype=np.bool_)
    for row in kept:
        row[rng.permutation(n)[: n // 2]] = True
    return kept


def world(noise: float = 0.0, seeds: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores that are true, masks, and losses [seeds, m, q] that follow from them up to noise."""
    rng = np.random.default_rng(5)
    scores, kept = rng.normal(size=(N, Q)).astype(np.float32), masks()
    losses = -(kept.astype(np.float64) @ scores.astype(np.float64))
    return scores, kept, losses + noise * losses.std(0) * rng.normal(size=(seeds, M, Q))


def naive(scores: np.ndarray, kept: np.ndarray, losses: np.ndarray) -> list[float]:
    found = []
    for q in range(scores.shape[1]):
        sums = [sum(float(scores[i, q]) for i in range(len(scores)) if row[i]) for row in kept]
        found.append(float(spearmanr(sums, -losses[:, q]).statistic))
    return found


def test_it_is_the_naive_loop() -> None:
    true, kept, losses = world(noise=1.0)
    scores = true + np.random.default_rng(1).normal(size=true.shape).astype(np.float32)
    found = lds(scores_of(scores), truth_of(kept, losses))
    assert found.per_query["made-up"] == pytest.approx(naive(scores, kept, losses[0]), abs=1e-12)
    assert found.mean == pytest.approx(np.mean(naive(scores, kept, losses[0])), abs=1e-12)


def test_by_hand_with_ties() -> None:
    """Sums 1 2 2 4, losses -1 -3 -2 -4: ranks 1 2.5 2.5 4 and 1 3 2 4, correlation 4.5 / sqrt(4.5 * 5)."""
    x, y = np.array([[1.0], [2], [2], [4]]), np.array([[1.0], [3], [2], [4]])
    assert float(spearman(x, y)[0]) == pytest.approx(4.5 / np.sqrt(4.5 * 5.0))


def test_perfect_random_and_wrong_predictors() -> None:
    true, kept, losses = world()
    random = np.random.default_rng(8).normal(size=true.shape)
    found = lds(
        {"true": scores_of(true), "random": scores_of(random), "wrong": scores_of(-true)}, truth_of(kept, losses)
    )
    assert found.rows["true"].mean == pytest.approx(1.0)
    assert found.rows["wrong"].mean == pytest.approx(-1.0)
    assert found.rows["random"].low < 0 < found.rows["random"].high
    assert found.better("random") == 1.0
    assert "better than random with >99.9% of resamples" in found.text


def test_a_perfect_predictor_of_noisy_losses_reaches_the_ceiling() -> None:
    true, kept, losses = world(noise=1.0, seeds=4)
    found = lds(scores_of(true), truth_of(kept, losses))
    expected = np.sqrt(1 / (1 + 1 / 4))  # of the mean over four seeds: signal 1, noise 1 / 4
    assert found.facts["ceiling"] == pytest.approx(expected, abs=0.02)
    assert found.mean == pytest.approx(found.facts["ceiling"], abs=0.03)
    assert ceiling(losses[:1]) == {"between_seeds": None, "ceiling": None}


def test_pseudo_values_are_the_jackknife() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 5, (12, 3)).astype(float), rng.integers(0, 5, (12, 3)).astype(float)
    found = pseudo_values(x, y)
    for q in range(3):
        whole = spearmanr(x[:, q], y[:, q]).statistic
        for j in range(12):
            without = spearmanr(np.delete(x[:, q], j), np.delete(y[:, q], j)).statistic
            assert found[q, j] == pytest.approx(12 * whole - 11 * without, abs=1e-10)


def test_a_paired_difference_is_narrower_than_both() -> None:
    """Two methods that share their errors: what differs is known better than either."""
    true, kept, losses = world(noise=2.0)
    rng = np.random.default_rng(4)
    one = true + 0.05 * rng.normal(size=true.shape)
    found = lds({"a": scores_of(one), "b": scores_of(true)}, truth_of(kept, losses))
    width = found.against["b"].high - found.against["b"].low
    assert width < 0.5 * (found.rows["a"].high - found.rows["a"].low)


def test_sums_that_differ_by_rounding_only_are_tied() -> None:
    """0.1 added in different orders is one number; so is a constant score, which is refused."""
    kept = masks()
    scores = np.full((N, Q), 0.1)
    scores[0] = 5.0
    sums = predictions(scores, truth_of(kept, np.zeros((M, Q))))
    assert all(len(np.unique(column)) == 2 for column in sums.T)
    with pytest.raises(MethodError, match="are the same on every subset"):
        lds(scores_of(np.full((N, Q), 0.1)), truth_of(kept, world()[2]))


def test_what_is_no_number_is_an_error() -> None:
    true, kept, losses = world()
    with pytest.raises(MethodError, match=r"losses .* the same on every subset"):
        lds(scores_of(true), truth_of(kept, np.zeros((M, Q))))
    with pytest.raises(MethodError, match="7 subsets"):
        lds(scores_of(true), truth_of(kept[:7], losses[:, :7]))
    with pytest.raises(MethodError, match="59 and the truth of 60"):
        lds(scores_of(true[1:]), truth_of(kept, losses))
    other = Scores.of(true, table("other", N), table("query", Q), scores_of(true).provenance)
    with pytest.raises(MethodError, match="training example at position 0 is 'other:0'"):
        lds(other, truth_of(kept, losses))
    top = Scores.of(TopK.of_columns(true.T, 5), table("train", N), table("query", Q), scores_of(true).provenance)
    with pytest.raises(InputError, match="top=None"):
        lds(top, truth_of(kept, losses))
    with pytest.raises(MethodError, match="at least one"):
        lds([], truth_of(kept, losses))


def test_evidence_can_be_kept_with_a_result() -> None:
    true, kept, losses = world(noise=1.0)
    results = [scores_of(true, "one"), scores_of(-true, "one")]
    evidence = lds(results, truth_of(kept, losses)).evidence()
    assert [row["set"] for row in evidence["rows"]] == ["one", "one 2"]
    assert evidence["against"][0]["better"] == 1.0
    assert results[0].with_evidence(lds=evidence).evidence["lds"]["subsets"] == M
