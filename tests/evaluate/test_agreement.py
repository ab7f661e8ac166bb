"""Shares of the query's own source among the best, computed by hand."""

import numpy as np
import pytest

import assay
from assay.errors import MethodError
from assay.evaluate import agreement
from assay.examples import Examples
from assay.provenance import Provenance
from assay.ranking import TopK
from assay.scores import Scores

TRAIN = assay.read(
    [{"id": f"t{k}", "text": "a", "source": source} for k, source in enumerate(["x", "x", "y", None, "y", "z"])]
)
QUERIES = assay.read(
    [{"id": f"q{k}", "text": "a", "source": source} for k, source in enumerate(["x", None, "y", "None"])]
)
ARRAY = np.array(
    [
        # q0: t2, t0, t1   q1: no source   q2: t4, t2, t0 (equal scores in order)   q3: source "None", which no row has
        [0.8, 9.0, 0.1, 0.0],
        [0.7, 9.0, 0.1, 0.0],
        [0.9, 9.0, 0.5, 0.0],
        [-1.0, 9.0, 0.0, 5.0],
        [-2.0, 9.0, 0.6, 4.0],
        [-3.0, 9.0, 0.0, 3.0],
    ],
    np.float32,
)


def scores(
    array: np.ndarray = ARRAY, train: Examples = TRAIN, queries: Examples = QUERIES, top: int | None = None
) -> Scores:
    kept = array if top is None else TopK.of_columns(iter(array.T), top)
    return Scores.of(kept, train, queries, Provenance(method="mine", parameters={}, unit="arbitrary"))


def test_by_hand() -> None:
    found = agreement(TRAIN, QUERIES, [scores()], k=3)
    mine, chance = found["rows"]
    assert mine["mean"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert mine["set"] == "mine top 3"
    assert mine["n"] == chance["n"] == 3
    assert mine["low"] <= mine["mean"] <= mine["high"]
    assert found["chance"] == chance["mean"] == chance["low"] == pytest.approx((2 / 6 + 2 / 6 + 0) / 3)
    assert found["k"] == 3
    assert found["text"] == "mine top 3: 44%; chance: 22%."


def test_a_result_that_ranks_too_few_gains_nothing() -> None:
    """q0 has three scores above zero, all of which a top 5 holds: the places that stay empty are misses."""
    found = agreement(TRAIN, QUERIES, [scores(top=5), scores()], k=5)
    few, all_ = found["rows"][:2]
    assert few["mean"] == pytest.approx((2 / 5 + 2 / 5 + 0) / 3)
    assert all_["mean"] == pytest.approx((2 / 5 + 2 / 5 + 0) / 3)


def test_what_is_refused() -> None:
    unknown = assay.read([{"id": "q", "text": "a"}])
    with pytest.raises(MethodError, match="no query has one; add a field 'source'"):
        agreement(TRAIN, unknown, [scores(ARRAY[:, :1], queries=unknown)], k=2)
    with pytest.raises(MethodError, match="k=7 examples of 6; give k between 1 and 6"):
        agreement(TRAIN, QUERIES, [scores()], k=7)
    with pytest.raises(MethodError, match="Give the examples and queries that were scored"):
        agreement(TRAIN, QUERIES, [scores(ARRAY[::-1], TRAIN.select(range(5, -1, -1)))], k=2)
    with pytest.raises(MethodError, match="6 examples and 4 queries, and were given with 5 and 4"):
        agreement(TRAIN[:5], QUERIES, [scores()], k=2)


def test_by_label_and_by_given_classes() -> None:
    train = assay.read([{"id": f"t{k}", "text": "a", "label": label} for k, label in enumerate([0, 0, 1, 2, 1, 2])])
    queries = assay.read([{"id": f"q{k}", "text": "a", "label": label} for k, label in enumerate([0, None, 1, 2])])
    found = agreement(train, queries, [scores(train=train, queries=queries)], k=3, by="label")
    # q0: t2, t0, t1; q2: t4, t2, t0; q3: t3, t4, t5
    assert found["rows"][0]["mean"] == pytest.approx((2 / 3 + 2 / 3 + 2 / 3) / 3)
    assert found["unit"] == "share of the top with the query's label"
    given = (["x", "x", "y", None, "y", "z"], ["x", None, "y", "None"])
    as_source = agreement(TRAIN, QUERIES, [scores()], k=3)
    as_class = agreement(TRAIN, QUERIES, [scores()], k=3, by=given)
    assert as_class["rows"][0]["mean"] == as_source["rows"][0]["mean"]
    with pytest.raises(MethodError, match="Classes of 1 training examples"):
        agreement(TRAIN, QUERIES, [scores()], k=3, by=(["x"], ["x"]))
    with pytest.raises(MethodError, match="no query has one; add a field 'label'"):
        agreement(TRAIN, QUERIES, [scores()], k=3, by="label")


def test_differences_are_paired() -> None:
    other = scores(ARRAY[::-1].copy())
    found = agreement(TRAIN, QUERIES, [scores(), other], k=3)
    (row,) = found["against"]
    assert row["mean"] == pytest.approx(found["rows"][0]["mean"] - found["rows"][1]["mean"])
    assert 0 <= row["better"] <= 1
