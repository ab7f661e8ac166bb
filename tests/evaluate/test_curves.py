"""Removal and addition curves against numbers worked out by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyRegressor

import assay
from assay.errors import MethodError
from assay.evaluate import ByValue, Truth, curves
from assay.evaluate.curves import NAMES, folded
from assay.provenance import Provenance
from assay.values import Values

Y = np.array([0.0, 1.0, 2.0, 9.0])  # the mean of the targets left is the prediction everywhere
X = np.arange(4.0)[:, None]
TRAIN, GOAL = assay.read((X, Y)), assay.read((X[:2], np.array([0.0, 2.0])))


def valued(array: Any, train: Any = TRAIN) -> Values:
    return Values.of(
        np.asarray(array, dtype=float), train, Provenance(method="made-up", parameters={}, unit="arbitrary")
    )


def loss(*left: float) -> float:
    """Half the squared error, mean over the two queries, of the mean of the targets left."""
    mean = sum(left) / len(left)
    return 0.5 * ((mean - 0) ** 2 + (mean - 2) ** 2) / 2


class Counted(DummyRegressor):
    fits = 0

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        Counted.fits += 1
        return super().fit(X, y, sample_weight)


def test_curves_by_hand_are_stored_and_not_trained_again(tmp_path: Path) -> None:
    values = valued([0.5, 3.0, 0.1, -4.0])  # highest first: rows 1, 0, 2, 3
    Counted.fits = 0
    found = curves(values, Counted(), TRAIN, GOAL, tmp_path, shares=(0.5, 0.25, 0.75), repeats=2, processes=1)
    assert found.counts.tolist() == [1, 2, 3]
    expected = {
        ("removal", "highest"): [loss(0, 2, 9), loss(2, 9), loss(9)],
        ("removal", "lowest"): [loss(1, 0, 2), loss(1, 0), loss(1)],
        ("addition", "highest"): [loss(1), loss(1, 0), loss(1, 0, 2)],
        ("addition", "lowest"): [loss(9), loss(9, 2), loss(9, 2, 0)],
    }
    for key, line in expected.items():
        np.testing.assert_allclose(found.line(*key), [line], atol=1e-12)
    for way in ("removal", "addition"):
        orders = [np.random.default_rng((0, r)).permutation(4) for r in range(2)]
        chance = [
            [loss(*Y[order[k:] if way == "removal" else order[:k]]) for k in (1, 2, 3)] for order in orders
        ]  # fmt: skip
        np.testing.assert_allclose(found.line(way, "random"), chance, atol=1e-12)
        for order in ("highest", "lowest"):
            gap = np.mean(expected[way, order]) - np.mean(chance)
            assert found.gaps[way, order].mean == pytest.approx(gap)
    assert found.full.mean() == pytest.approx(loss(0, 1, 2, 9))
    assert [row["set"] for row in found.evidence()["rows"]] == list(NAMES.values())
    trained = Counted.fits
    assert trained <= 15  # of 4 examples there are no more sets that are not empty
    again = curves(values, Counted(), TRAIN, GOAL, tmp_path, shares=(0.25, 0.5, 0.75), repeats=2, processes=1)
    assert Counted.fits == trained
    assert again.evidence() == found.evidence()
    assert Truth.open(tmp_path, "by value of made-up").family.startswith("by value of made-up (")


def test_what_is_taken_is_nested_and_its_complement_is_left() -> None:
    subsets = ByValue(valued([1, 1, 0, 2]), shares=(0.25, 0.5), repeats=1)
    names, masks = subsets.members(TRAIN)
    found = dict(zip(names, masks.tolist(), strict=True))
    assert found["addition of 2, highest"] == [True, False, False, True]  # of equals the first
    assert found["removal of 1, lowest"] == [True, True, False, True]
    for name, mask in found.items():
        other = name.replace("removal", "addition") if "removal" in name else name.replace("addition", "removal")
        assert found[other] == [not kept for kept in mask]
    assert subsets.name != ByValue(valued([1, 2, 0, 1]), shares=(0.25, 0.5), repeats=1).name
    assert subsets.name != ByValue(subsets.values, shares=(0.25, 0.5), repeats=1, seed=1).name


def test_a_table_and_an_estimator_by_name(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"size": random.normal(size=40), "kind": random.choice(["a", "b"], 40)})
    frame["y"] = np.where(frame["size"] > 0, "yes", "no")
    frame.loc[:7, "y"] = np.where(frame.loc[:7, "size"] > 0, "no", "yes")  # the first eight are wrong
    train, goal = assay.read(frame[:30], label="y"), assay.read(frame[30:], label="y")
    values = valued(np.arange(30.0), train)
    found = curves(values, "logistic", train, goal, tmp_path, shares=(0.25,), repeats=3, processes=1)
    assert found.gaps["removal", "lowest"].mean < 0 < found.gaps["addition", "lowest"].mean
    assert folded(Truth.open(tmp_path), ByValue(values, (0.25,), 3)).evidence() == found.evidence()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": assay.read((X[:3], Y[:3]))}, "data that were valued"),
        ({"shares": (0.01,)}, "shares that take"), ({"shares": (1.0,)}, "shares that take"),
        ({"shares": ()}, "shares that take"), ({"repeats": 0}, "shares that take"),
    ],
)  # fmt: skip
def test_what_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"train": TRAIN, "queries": GOAL, "path": tmp_path / "curves", **change}
    with pytest.raises(MethodError, match=message):
        curves(valued(Y), DummyRegressor(), **given)
    assert not (tmp_path / "curves").exists()
