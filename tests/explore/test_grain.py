from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.explore.test_report import HOSTILE, Node, page

from assay.explore import grain
from assay.grain import ELSEWHERE, Fold, Parts
from assay.provenance import Provenance
from assay.scores import Scores
from assay.tables import Table


def table(texts: list[str], **columns: Any) -> Table:
    n = len(texts)
    return Table([f"i{k}" for k in range(n)], [None] * n, texts, np.arange(n), n, columns)


def fold(by: str, names: list[str], scores: list[float], specials: int = 0) -> Fold:
    sizes = [0 if k < specials else len(name) for k, name in enumerate(names)]
    ends = np.cumsum(sizes).astype(np.int64)
    return Fold("i0", "i0", by, names, np.array(scores), ends - np.array(sizes, np.int64), ends)


def result(*folds: Fold, **parameters: str) -> Scores:
    return Scores(
        entries=np.array([[1.0], [-0.5]], np.float32),
        train=table(["one two", "three"]),
        queries=table(["a query"]),
        provenance=Provenance(method="graddot", parameters=parameters, unit="arbitrary"),
        parts=Parts(folds),
    )


def test_tokens_are_coloured_by_their_share_and_told_in_numbers(tmp_path: Path) -> None:
    token = fold("loss-token", ["<s>", "one", " two", " small"], [0.0, -1.0, 2.0, 0.01], specials=1)
    shown = page(result(token, fold("module", ["m.0.a", "m.0.b", "m.1.a"], [1.0, 0.5, -0.49])), tmp_path)
    (heat,) = shown.all("div", "heat")
    coloured = [(n.attrs["class"], n.attrs["title"], n.text) for n in heat.all("span") if "title" in n.attrs]
    assert coloured == [("n4", "−1", "one"), ("p8", "+2", "two")]
    assert heat.text == "<s>one two small"
    (strongest,) = shown.all("table", "strongest")
    cells = [[c.text for c in row.children if isinstance(c, Node)] for row in strongest.all("tr")]
    assert cells[1] == ["one two", "+2", "198%"]
    (layers,) = shown.all("table", "layers")
    assert [[c.text for c in row.children if isinstance(c, Node)] for row in layers.all("tr")][1:] == [
        ["m.0", "+1.5"], ["m.1", "−0.49"]
    ]  # fmt: skip
    assert "Token by token, a score is taken apart" in shown.text


@pytest.mark.parametrize("text", [text for text in HOSTILE if "\ud800" not in text])
def test_hostile_tokens_are_text(text: str, tmp_path: Path) -> None:
    shown = page(result(fold("loss-token", ["fine", text], [0.1, 1.0]), fold("query-token", [text], [1.1])), tmp_path)
    assert len(shown.all("div", "heat")) == 2
    assert not shown.all("script")


def test_a_long_text_is_cut_around_its_strongest_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grain, "WINDOW", 10)
    scores = [0.1] * 100
    scores[60] = 5.0
    shown = page(result(fold("loss-token", [f" w{k}" for k in range(100)], scores)), tmp_path)
    (heat,) = shown.all("div", "heat")
    assert heat.text.split() == [f"w{k}" for k in range(55, 65)]
    told = [p.text for p in shown.all("p", "left-out")]
    assert told == ["55 tokens left out here, together +5.5.", "35 tokens left out here, together +3.5."]


def test_positions_say_what_none_of_them_holds(tmp_path: Path) -> None:
    shown = page(result(fold("position", ["a", " b", ELSEWHERE], [1.0, 0.5, -0.25])), tmp_path)
    (heat,) = shown.all("div", "heat")
    assert heat.text == "a b"
    assert any("−0.25 is held by no position" in p.text for p in shown.all("p", "left-out"))


def test_a_run_without_parts_says_nothing_of_them(tmp_path: Path) -> None:
    plain = result()
    plain = Scores.of(plain.array, plain.train, plain.queries, plain.provenance)
    shown = page(plain, tmp_path)
    assert "Token by token" not in shown.text
    assert "lowered the query's loss" in shown.text


def test_the_measurement_is_in_the_sign(tmp_path: Path) -> None:
    shown = page(result(measure="log-odds: <b>"), tmp_path)
    assert "training on it raised the measurement (log-odds: <b>)" in shown.text
