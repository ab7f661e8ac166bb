"""Offers and their split: brute-force Shapley values, what is handed over, and what is refused."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tests.students import fitted, pool, sentences, worth
from tests.support import examples, text_model

import assay
from assay.act.price import Offer, appraise, load_offer, shares_of_distinct, split
from assay.act.price.check import check, delivered
from assay.errors import DataError, InputError
from assay.methods.student.scorer import Predicted, Scorer
from assay.methods.student.sealed import sealed
from assay.training import Recipe

HELD = [
    {"a": 1.0, "b": -0.5, "c": 2.0},
    {"c": 2.0, "d": 0.25},
    {"a": 1.0, "c": 2.0, "e": -3.0},
    {},
    {"f": 0.125, "b": -0.5},
]


def brute_force(held: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Mean marginal contribution over all orders, of the sum over distinct rows."""
    total, orders = np.zeros(len(held)), list(permutations(range(len(held))))
    for order in orders:
        known: dict[str, float] = {}
        for player in order:
            before = sum(known.values())
            known |= held[player]
            total[player] += sum(known.values()) - before
    return total / len(orders)


def test_shares_are_shapley_values() -> None:
    found = shares_of_distinct(HELD)
    np.testing.assert_allclose(found, brute_force(HELD), atol=1e-12)
    assert found.sum() == pytest.approx(sum({k: v for rows in HELD for k, v in rows.items()}.values()))


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return fitted(300)[0]


def offer(provider: str, values: Sequence[float], stderr: float = 0.1, **changes: Any) -> Offer:
    """By hand: rows of these values, all distinct and in the domain."""
    array, n = np.array(values, dtype=float), len(values)
    predicted = Predicted(
        array, np.full(n, stderr), array - 0.2, array + 0.2, np.zeros(n), changes.pop("in_domain", np.ones(n, bool))
    )
    digests = changes.pop("digests", [f"{provider}{k}" for k in range(n)])
    given = {"scorer": "s", "shift": 0.0, "data": {"fingerprint": provider}, "about": {"scorer": "good"}} | changes
    return Offer(provider, predicted, digests, **given)


def test_a_budget_is_split_in_proportion_and_cut_off_at_zero() -> None:
    found = split([offer("bad", [-1.0, 0.5]), offer("small", [1.0, 1.0]), offer("large", [2.0, 3.0, 1.0])], 800)
    assert list(found.frame["provider"]) == ["large", "small", "bad"]
    assert found.prices == pytest.approx({"large": 600.0, "small": 200.0, "bad": 0.0})
    assert "bad" in " ".join(found.notes)
    assert (found.frame["price_low"] <= found.frame["price"]).all()
    assert (found.frame["price"] <= found.frame["price_high"]).all()
    assert found.frame["first"].tolist() == pytest.approx([1, 0, 0], abs=1e-3)
    assert split([offer("bad", [-1.0])], 10).prices == {"bad": 0.0}


def test_intervals_are_those_of_sums_of_errors() -> None:
    """Errors of rows add in squares, those of a provider as a whole in proportion to its rows."""
    (row,) = split([offer("a", [1.0] * 4, 0.5, shift=0.25)], 1).frame.to_dict("records")
    half = 1.96 * np.sqrt(4 * 0.5**2 + (4 * 0.25) ** 2)
    assert (row["low"], row["high"]) == pytest.approx((4 - half, 4 + half))
    near = split([offer("a", [1.0], 0.1), offer("b", [1.0], 0.1)], 100).frame
    assert near["first"].tolist() == pytest.approx([0.5, 0.5], abs=0.03)
    ratio = 1 / (1 + np.exp(np.random.default_rng(1).normal(size=100_000) * 0.1 * np.sqrt(2)))  # of two, to first order
    assert near["price_low"].tolist() == pytest.approx([100 * np.quantile(ratio, 0.025)] * 2, rel=0.05)


def test_copies_are_not_paid_twice() -> None:
    """Within an offer a row counts once; what two offers hold is paid in equal parts, with its part of the error."""
    copied = offer("copies", [1.0, 1.0, 1.0], digests=["x", "x", "x"])
    honest = offer("honest", [1.0, 2.0], digests=["x", "y"])
    frame = split([copied, honest], 300).frame.set_index("provider")
    assert frame["total"].to_dict() == {"honest": 2.5, "copies": 0.5}
    assert frame["shared"].to_dict() == {"honest": 1, "copies": 1}
    assert frame.loc["copies", "high"] - 0.5 == pytest.approx(1.96 * 0.05)
    assert copied.summary()["repeated"] == 2


def test_what_is_out_of_the_domain_is_not_paid() -> None:
    found = offer("a", [1.0, 50.0], in_domain=np.array([True, False]))
    (row,) = split([found], 10).frame.to_dict("records")
    assert (row["total"], row["counted"], row["out_of_domain"]) == (1.0, 1, 0.5)
    assert found.summary()["out_of_domain"] == 0.5
    assert "unlike" in " ".join(split([found], 10).notes)


@pytest.mark.parametrize(
    ("offers", "budget", "told"),
    [
        ([], 10, "No offer"),
        ([offer("a", [1.0])], 0, "budget of 0"),
        ([offer("a", [1.0])], float("nan"), "budget of nan"),
        ([offer("a", [1.0]), offer("a", [2.0])], 10, "Two offers are by 'a'"),
        ([offer("a", [1.0]), offer("b", [2.0], scorer="other")], 10, "different scorers"),
    ],
)
def test_what_cannot_be_split_is_refused(offers: list[Offer], budget: float, told: str) -> None:
    with pytest.raises(InputError, match=told):
        split(offers, budget)


# -- offers ------------------------------------------------------------------------------------------------------------


def test_an_offer_holds_values_and_no_text(scorer: Scorer, tmp_path: Path) -> None:
    rows = [{"id": f"secret {text}", "text": text, "source": text} for text in sentences(40, seed=5)]
    made = appraise(scorer, "c", examples(*rows), "North")
    made.save(tmp_path / "offer")
    content = b"".join(file.read_bytes() for file in (tmp_path / "offer").iterdir()).lower()
    table = pq.read_table(tmp_path / "offer" / "values.parquet")
    content += " ".join(str(value) for row in table.to_pylist() for value in row.values()).encode()
    assert b"secret" not in content
    assert not any(" ".join(row["text"].split()[:2]).encode() in content for row in rows)
    summary = json.loads((tmp_path / "offer" / "offer.json").read_text("utf-8"))["summary"]
    values = scorer.predict([row["text"] for row in rows]).value
    assert made.counted.sum() > 35
    assert summary["total"] == pytest.approx(values[made.counted].sum())
    assert sum(summary["histogram"]["counts"]) == summary["counted"] == made.counted.sum()
    loaded = load_offer(tmp_path / "offer")
    assert (loaded.provider, loaded.scorer, loaded.summary()) == ("North", "c", made.summary())
    np.testing.assert_array_equal(loaded.predicted.value, values)


def test_total_values_lie_within_their_intervals(scorer: Scorer) -> None:
    inside = 0
    for seed in range(20):
        texts = sentences(30, seed=100 + seed)
        made = appraise(scorer, "c", examples(*texts), "a")
        low, high = made.summary()["total_interval"]
        inside += low < sum(worth(texts[k]) for k in np.flatnonzero(made.counted)) < high
    assert inside >= 18


def reseal(folder: Path, **entries: Any) -> None:
    path = folder / "offer.json"
    content = json.loads(path.read_text("utf-8")) | entries
    content.pop("checksum")
    path.write_text(json.dumps(sealed(content)), "utf-8")


def test_a_changed_offer_is_refused(scorer: Scorer, tmp_path: Path) -> None:
    made = appraise(scorer, "c", pool(40), "North")
    folder = tmp_path / "offer"
    made.save(folder)
    reseal(folder, summary=made.summary() | {"total": 1e6})
    with pytest.raises(InputError, match="not those of the summary"):
        load_offer(folder)
    reseal(folder, summary=made.summary())
    load_offer(folder)
    path = folder / "offer.json"
    path.write_text(path.read_text("utf-8").replace("North", "South"), "utf-8")
    with pytest.raises(InputError, match="checksum"):
        load_offer(folder)


def test_data_that_cannot_be_valued_are_refused(scorer: Scorer) -> None:
    with pytest.raises(DataError, match="arrays"):
        appraise(scorer, "c", assay.read((np.zeros((3, 2)), np.zeros(3))), "a")
    with pytest.raises(InputError, match="unlike"):
        appraise(scorer, "c", examples("Der Zweck heiligt die Mittel", "x = [k ** 2 for k in y]"), "a")
    with pytest.raises(InputError, match="name"):
        appraise(scorer, "c", pool(10), " ")


def test_delivered_data_must_be_what_was_offered(scorer: Scorer) -> None:
    one, other = pool(40, seed=1), pool(40, seed=2)
    offers = [appraise(scorer, "c", one, "a"), appraise(scorer, "c", other, "b")]
    assert delivered(offers, scorer, [other, one]) == [one, other]
    with pytest.raises(InputError, match="b offered"):
        delivered(offers, scorer, [one])
    raised = replace(offers[0].predicted, value=offers[0].predicted.value + np.eye(40)[3])
    with pytest.raises(InputError, match="1 of 40 rows that a delivered"):
        delivered([replace(offers[0], predicted=raised)], scorer, [one])


def test_the_check_trains_on_coalitions() -> None:
    """What is like the targets lowers their loss; the values are those of four trainings by hand."""
    model = text_model("Llama", dtype=torch.float32, num_hidden_layers=1)
    data = [examples(*["the cat sat on the mat"] * 4, "the cat sat"), examples(*["hello who are you"] * 5)]
    recipe = Recipe(model.module, model.task, optimizer="sgd", lr=0.02, epochs=2, batch_size=5)
    offers = [offer("good", [2.0] * 5), offer("other", [0.5] * 5)]
    on = examples("the cat sat on the mat .")
    found = check(split(offers, 100), offers, data, recipe, on)
    frame = found.frame.set_index("provider")
    rows = examples(*(text for one in data for text in one.texts))
    part = lambda *kept: np.repeat(kept, 5).astype(float)  # noqa: E731
    none, good, other, both = (
        -float(recipe.train(rows, weights).loss_of(recipe.encode(on)).double().mean())
        for weights in (part(0, 0), part(1, 0), part(0, 1), part(1, 1))
    )
    right = {"good": (good - none + both - other) / 2, "other": (other - none + both - good) / 2}
    assert frame["retrained"].to_dict() == pytest.approx(right, abs=1e-6)
    assert right["good"] > max(right["other"], 0)
    assert found.agreement == pytest.approx(1)
    assert "4 coalitions" in " ".join(found.notes)
