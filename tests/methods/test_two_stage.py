"""Two stages: exact scores for candidates, and a recall that is measured and not hoped for."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from tests.support import examples, text_model

import assay
from assay.errors import MethodError
from assay.examples import Examples
from assay.methods import EKFAC, GradDot, two_stage
from assay.models import Model
from assay.ranking import TopK

ENDS = ("the mat", "you", "a red dog")
TRAIN = examples(
    *(f"the {a} {b} {c}" for a in ("cat", "dog", "big tree") for b in ("sat on", "saw", "ran under") for c in ENDS)
)
QUERIES = examples("the dog saw you", "a cat sat on the red mat")


def model() -> Model:
    return text_model("Llama", num_hidden_layers=1)


def scored(column: Any) -> dict[int, float]:
    return {int(row): float(score) for row, score in zip(*column, strict=True)}


@pytest.mark.parametrize("prefilter", ["bm25:5", "tfidf:5", "embedding:5", "factored:2:5"])
def test_candidates_get_the_scores_that_they_have_without_a_prefilter(prefilter: str) -> None:
    exact = assay.attribute(model(), TRAIN, QUERIES, EKFAC()).array
    some = assay.attribute(model(), TRAIN, QUERIES, EKFAC(), prefilter=prefilter)
    assert isinstance(some.entries, TopK)
    rows = some.entries.rows()
    assert 5 <= len(rows) <= 12  # at most 5 of each query and 2 at random
    for query in range(2):
        for sign in (+1, -1):
            for row, score in scored(some.entries.side(query, sign)).items():
                np.testing.assert_allclose(score, exact[row, query], atol=1e-5 * np.abs(exact).max())
    assert some.unit == "nats of query loss per removed example"
    assert some.provenance.inputs["prefilter"] == prefilter
    assert any("Exact scores for" in note and "of 27 training examples" in note for note in some.provenance.notes)


def test_a_prefilter_that_keeps_all_changes_nothing() -> None:
    plain = assay.attribute(model(), TRAIN, QUERIES, GradDot(), top=5)
    both = assay.attribute(model(), TRAIN, QUERIES, GradDot(), top=5, prefilter="factored:64:27")
    # a cheap score below zero is no candidate, so only the helpful end is complete
    helpful = plain.top(5).query("side == 'helpful'")[["query_id", "train_id"]]
    assert (
        both.top(5).query("side == 'helpful'")[["query_id", "train_id"]].to_numpy().tolist()
        == helpful.to_numpy().tolist()
    )


def test_recall_is_counted_on_the_slice_alone() -> None:
    """10 rows, k = 3: the top of query 0 are rows 0, 1, 2, of query 1 rows 7, 8, 9; the slice is rows 0, 1, 7, 5."""
    scores = np.zeros((10, 2), np.float32)
    scores[:3, 0], scores[7:, 1], scores[5, :] = [3, 2, 1], [1, 2, 3], 0.5
    random = np.isin(np.arange(10), [0, 1, 7, 5])
    found = np.isin(np.arange(10), [0, 2, 8, 9])
    note = two_stage.told(scores, found, random, 3, "bm25:2")
    low, high = (f"{100 * bound:.0f}%" for bound in binomtest(1, 3).proportion_ci(0.95, method="exact"))
    assert "3 pairs" in note
    assert f"bm25:2 had found 1 of them: recall 33% (95% interval {low} to {high})" in note
    assert "could not be measured" in two_stage.told(scores, found, np.zeros(10, bool), 3, "bm25:2")


@pytest.mark.parametrize(("hit", "there"), [(0, 4), (4, 4), (7, 20)])
def test_the_interval(hit: int, there: int) -> None:
    expected = binomtest(hit, there).proportion_ci(0.95, method="exact")
    np.testing.assert_allclose(two_stage.interval(hit, there), (expected.low, expected.high))


def test_the_slice_is_random_by_the_seed() -> None:
    one, same, other = (set(two_stage._slice(500, seed).tolist()) for seed in (0, 0, 1))
    assert one == same != other
    assert len(one) == 50


@pytest.mark.parametrize(
    ("prefilter", "method", "message"),
    [("bm52:5", "graddot", "Did you mean 'bm25'"), ("bm25", "graddot", "write bm25:1000"),
     ("factored:5", "graddot", "write factored:16:1000"),
     ("bm25:0", "graddot", "cannot be read"), ("bm25:5", "bm25", "takes none"), ("bm25:5", "trak", "stores compressed ones")],
)  # fmt: skip
def test_what_cannot_be_done_is_refused(prefilter: str, method: Any, message: str) -> None:
    rows: Examples = TRAIN
    with pytest.raises(MethodError, match=message):
        assay.attribute(model(), rows, QUERIES, method, prefilter=prefilter)
