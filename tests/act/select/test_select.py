"""Selectors against simulation and by hand."""

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.helpers import json_lines, refused, run

import assay
from assay.act.select import SELECTORS, Hard, Linear, Softmax, budget_of, find_selector, select
from assay.errors import InputError, MethodError
from assay.provenance import Provenance
from assay.values import Values

LABELS = [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
TRAIN = assay.read((np.arange(10.0)[:, None], np.array(LABELS)))
ARRAY = np.array([5.0, 1, 4, 2, 3, 9, 8, 7, 6, 0])


def values(array: Any = ARRAY, method: str = "vog") -> Values:
    return Values.of(np.asarray(array, dtype=float), TRAIN, Provenance(method=method, parameters={}, unit="arbitrary"))


def kept(selector: Any, budget: Any = 0.4, of: Values | None = None) -> list[int]:
    frame = select(of or values(), selector, budget, TRAIN)
    return sorted(frame["row"][frame["kept"]].tolist())


def test_a_hard_cut_drops_the_end_that_the_method_means() -> None:
    assert kept(Hard()) == [1, 3, 4, 9]  # vog: easy is high and goes
    assert kept(Hard(), of=values(method="shapley")) == [5, 6, 7, 8]
    assert kept(Hard(), of=values(method="self-influence")) == [1, 3, 4, 9]
    assert kept(Hard(drop="lowest")) == [5, 6, 7, 8]
    assert kept(Hard(drop_hardest="20%")) == [0, 2, 3, 4]
    assert kept(Hard(), of=values(np.zeros(10))) == [0, 1, 2, 3]


def test_every_row_has_a_reason() -> None:
    frame = select(values(), Hard(drop_hardest=0.1), 0.4, TRAIN)
    assert len(frame) == 10
    assert frame["kept"].tolist() == [True] * 4 + [False] * 6
    why = dict(zip(frame["row"], frame["why"], strict=True))
    assert why[9] == "among the lowest that go first; value +0, rank 10 of 10"
    assert why[5] == "at the highest end; value +9, rank 1 of 10"
    assert why[1] == "kept; value +1, rank 9 of 10"
    assert frame.attrs["notes"] == ["hard: the highest values of 'vog' are dropped, the 1 lowest before."]
    drawn = select(values(), Linear(), 0.4, TRAIN)["why"].tolist()
    assert [one.split(";")[0] for one in drawn] == ["drawn"] * 4 + ["not drawn"] * 6


@pytest.mark.parametrize("kind", SELECTORS, ids=lambda kind: kind.name)
def test_keep_all_keeps_all_and_sizes_are_exact(kind: Any) -> None:
    for by_class in (False, True):
        assert kept(kind(by_class=by_class), 1.0) == list(range(10))
        for count in range(1, 11):
            assert len(kept(kind(by_class=by_class), count)) == count
    rows = kept(kind(by_class=True), 5)
    assert sum(LABELS[row] for row in rows) == 3
    assert kept(kind(seed=3), 5) == kept(kind(seed=3), 5)


@pytest.mark.parametrize("kind", [Softmax, Linear])
def test_draws_have_the_probabilities_of_drawing_one_after_the_other(kind: Any) -> None:
    """Two of four rows: inclusion probabilities by enumeration of the orders, against 4,000 draws."""
    liking = np.array([0.0, 1.0, 2.0, 4.0])
    selector = kind(floor=0.1) if kind is Linear else kind(temperature=1.5)
    z = (liking - liking.mean()) / liking.std()
    weights = selector.weights(liking) if kind is Linear else np.exp(z / 1.5)
    exact = np.zeros(4)
    for first, second in permutations(range(4), 2):
        exact[[first, second]] += weights[first] / weights.sum() * weights[second] / (weights.sum() - weights[first])
    rng, found = np.random.default_rng(0), np.zeros(4)
    for _ in range(4000):
        found[selector.pick(liking, 2, rng)] += 1 / 4000
    np.testing.assert_allclose(found, exact, atol=0.025)
    assert exact.max() - exact.min() > 0.2
    moved = [selector.pick(scaled, 3, np.random.default_rng(5)).tolist() for scaled in (liking, 7 * liking - 3)]
    assert moved[0] == moved[1]


def test_a_cold_softmax_is_the_hard_cut() -> None:
    assert kept(Softmax(temperature=1e-6)) == kept(Hard())


REFUSED: list[tuple[Any, Any, str]] = [
    (Hard(), 0.0, "The budget is 0.0; a share"), (Hard(), "x%", "a share such as"), (Hard(), 11, "there are 10"),
    (Hard(), 0.01, "is none"), (Hard(drop="lowest", drop_hardest=0.1), 0.5, "which go anyway"),
    (Hard(drop_hardest=0.3), 0.8, "drop_hardest leaves 7"),
]  # fmt: skip


@pytest.mark.parametrize(("selector", "budget", "message"), REFUSED)
def test_what_cannot_be_is_refused(selector: Any, budget: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        select(values(), selector, budget, TRAIN)


def test_wrong_results_labels_and_parameters_are_refused() -> None:
    scores = assay.attribute(None, [{"text": "a b"}, {"text": "b"}], [{"text": "b"}], "bm25")
    with pytest.raises(MethodError, match="takes values, and was given scores by 'bm25'"):
        select(scores, Hard(), 0.5)
    with pytest.raises(MethodError, match="no label for every example"):
        select(values(), Hard(by_class=True), 0.5)
    with pytest.raises(InputError, match="other ids"):
        select(values(), Hard(), 0.5, TRAIN[:9])
    with pytest.raises(MethodError, match="Did you mean 'softmax'"):
        find_selector("softmx")
    for make in (lambda: Softmax(temperature=0.0), lambda: Linear(floor=0.0), lambda: Hard(drop="easy")):
        with pytest.raises(MethodError, match="cannot take"):
            make()
    assert budget_of("55%", 200) == 110
    assert budget_of("7", 200) == 7


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = [f"{a:.3f},{int(a > 0)}" for a in rng.normal(size=30)]
    Path("d.csv").write_text("a,label\n" + "\n".join(rows) + "\n")
    run("value", "d.csv", "--label", "label", "--on", "d.csv", "-m", "knn-shapley", "--out", "run", "--no-report")
    done = run(
        "select",
        "run",
        "--budget",
        "40%",
        "--with",
        "softmax",
        "--temperature",
        "0.5",
        "--by-class",
        "--out",
        "k.csv",
        "--json",
    )
    *lines, last = json_lines(done)
    assert len(lines) == 30
    assert (last["kept"], last["of"], last["parameters"]["temperature"]) == (12, 30, 0.5)
    written = Path("k.csv").read_text().splitlines()[1:]
    assert written == [rows[line["row"]] for line in sorted(lines, key=lambda line: line["row"]) if line["kept"]]
    assert len(Path("k.csv.selected.csv").read_text().splitlines()) == 31
    for arguments, message in (
        (("--budget", "40%", "--out", "k.csv"), "exists"),
        (("--budget", "0%"), "The budget is '0%'"),
        (("--budget", "40%", "--with", "hard", "--temperature", "1"), "has no --temperature"),
        (("--budget", "40%", "--with", "harder"), "There is no selector 'harder'"),
    ):
        refused("select", "run", *arguments, names=[message])
    assert "12 of 30 examples kept" in run("select", "run", "--budget", "12").stdout
