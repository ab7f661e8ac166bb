"""Which method to trust: planted answers win, wrong ones do not, within the time and by the strongest check."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tests.evaluate.test_one_step import PLANTED, QUERIES, TRAIN, model, scored
from torch import nn

import assay
from assay.errors import MethodError
from assay.evaluate import Truth, lds, recommend, trust
from assay.explore.evidence import read_evidence
from assay.methods import Random
from assay.provenance import Provenance
from assay.scores import Scores
from assay.training import Recipe


def named(scores: Scores, name: str) -> Scores:
    return Scores.of(scores.array, scores.train, scores.queries, Provenance(method=name, parameters={}, unit="x"))


def test_the_planted_answer_is_trusted_by_training_steps_and_the_wrong_one_is_not() -> None:
    rng = np.random.default_rng(0)
    wrong = scored([rng.permutation(18)[:3].tolist() for _ in range(3)])
    found = trust(model(), TRAIN, QUERIES, {"right": scored(PLANTED), "wrong": wrong}, minutes=5, k=3)
    assert found.methods == ("right", "wrong")
    assert found.decided_by == "tail_patch"
    assert found.verdicts["right"] == "no better than bm25"  # BM25 finds the copies too
    assert found.verdicts["wrong"] in ("no better than random", "worse than random")
    assert found.checks["one_step"]["right"].better("random") > 0.99
    assert "reliability of right was not measured" in " ".join(found.notes)  # no method of that name can be run again
    evidence = found.evidence("wrong")
    titles = [check.title for check in read_evidence(evidence)]
    assert titles[:2] == ["Which method to trust", "One-step check"]
    assert evidence["trust"]["rows"][0]["verdict"] == found.verdicts["right"]
    assert next(iter(evidence["one_step"]["per_query"])) == "wrong"


def classes(n: int = 40, q: int = 6) -> tuple[Any, Any]:
    torch.manual_seed(1)
    x, w = torch.randn(n + q, 4), torch.randn(4, 3)
    y = (x @ w).argmax(1)
    return assay.read((x[:n], y[:n])), assay.read((x[n:], y[n:]))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve subsets at most, which fit into any budget."""
    monkeypatch.setattr(sys.modules["assay.evaluate.trust"], "MOST", 12)  # the function hides its module


@pytest.mark.usefixtures("few")
def test_retraining_decides_where_there_is_a_recipe_and_is_kept(tmp_path: Path) -> None:
    train, queries = classes()
    recipe = Recipe(lambda: nn.Linear(4, 3), assay.tasks.Classify(), optimizer="sgd", lr=0.5, epochs=4, batch_size=8)
    trained = recipe.train(train).model
    results = [assay.attribute(trained, train, queries, "graddot"), Random(7).fit(None, train).score(queries)]
    found = trust(trained, train, queries, results, 5, recipe, tmp_path / "truth", k=5, processes=1)
    assert found.decided_by == "lds"
    assert found.methods[0] == "graddot"
    assert found.verdicts["graddot"] == "trust"
    assert found.verdicts["random"] != "trust"
    assert found.checks["lds"]["graddot"].facts["subsets"] == 12
    stored = Truth.open(tmp_path / "truth")
    assert len(stored) == 12
    assert found.checks["lds"]["graddot"].mean == pytest.approx(lds(results[0], stored).mean)


@pytest.mark.usefixtures("few")
def test_an_estimator_needs_no_model() -> None:
    train, queries = classes()
    results = Random(1).fit(None, train).score(queries)
    found = trust(None, train, queries, {"mine": results}, 5, LogisticRegression(), processes=1)
    assert list(found.checks) == ["lds"]
    assert found.verdicts["mine"] == "no better than chance"


@pytest.mark.usefixtures("few")
def test_what_does_not_fit_into_the_time_is_left_out_and_said() -> None:
    train, queries = classes()
    trained = assay.Model(nn.Linear(4, 3), assay.tasks.Classify())
    results = Random(1).fit(None, train).score(queries)
    found = trust(trained, train, queries, results, 1e-6, LogisticRegression(), processes=1)
    assert list(found.checks) == ["one_step"]
    notes = " ".join(found.notes)
    assert "one-step check is on 4 of 6 queries" in notes
    assert "Retraining was left out" in notes


def test_bad_input() -> None:
    with pytest.raises(MethodError, match="neither a model nor a recipe"):
        trust(None, TRAIN, QUERIES, scored(PLANTED))
    with pytest.raises(MethodError, match="minutes is 0"):
        trust(model(), TRAIN, QUERIES, scored(PLANTED), minutes=0)
    with pytest.raises(MethodError, match="Give the examples and queries that were scored"):
        trust(model(), TRAIN[:4], QUERIES, scored(PLANTED))


def test_recommend_names_one_that_was_tried() -> None:
    found = recommend(model(), TRAIN, QUERIES, minutes=2, methods=["bm25", "graddot", "tracin"], k=3)
    assert found.method in found.seconds
    assert set(found.seconds) == {"bm25", "graddot"}
    assert "checkpoints" in found.left_out["tracin"]
    assert found.whole.keys() == found.seconds.keys()
    assert found.text.startswith(f"Use {found.method}: ")
    with pytest.raises(MethodError, match="No method could be tried"):
        recommend(model(), TRAIN, QUERIES, methods=["tracin"])
    with pytest.raises(MethodError, match="minutes is -1"):
        recommend(model(), TRAIN, QUERIES, minutes=-1)
