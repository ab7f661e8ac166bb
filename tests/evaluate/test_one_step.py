"""The one-step check on a model where the answer is known: copies of the query among the training examples."""

import copy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import examples, text_model
from torch import Tensor, nn

import assay
from assay.errors import MethodError
from assay.evaluate import one_step, one_step_check
from assay.examples import Examples
from assay.models import Model
from assay.provenance import Provenance
from assay.scores import Scores
from assay.tasks import Regress

QUERIES = examples("the cat sat on the mat", "hello who are you", "I saw a big red dog .")
OTHER = [
    f"{a} {b} {c}" for a in ("a tree", "under") for b in ("and", "ran", ":") for c in ("user", "system .", "am I who")
]
TRAIN = examples(*OTHER, *(text for text in QUERIES.texts for _ in range(3)))
PLANTED = [[len(OTHER) + 3 * q + copy for copy in range(3)] for q in range(3)]


@cache
def model() -> Model:
    return text_model("Llama", num_hidden_layers=1)


def scored(rows: list[list[int]], train: Examples = TRAIN, queries: Examples = QUERIES) -> Scores:
    """Scores that put these rows first."""
    array = np.zeros((len(train), len(queries)), np.float32)
    for q, best in enumerate(rows):
        array[best, q] = 1
    return Scores.of(array, train, queries, Provenance(method="planted", parameters={}, unit="arbitrary"))


def test_copies_of_the_query_beat_random_examples() -> None:
    found = one_step_check(model(), TRAIN, scored(PLANTED), QUERIES, k=3)
    planted, bm25, random = found["rows"]
    assert [row["set"] for row in found["rows"]] == ["planted top 3", "bm25 top 3", "random 3"]
    assert planted["high"] < 0
    assert planted["mean"] == pytest.approx(bm25["mean"], rel=1e-9)  # BM25 finds copies too
    assert planted["mean"] < random["low"]
    assert (found["k"], found["queries"], planted["n"]) == (3, 3, 3)
    versus = {row["set"]: row for row in found["against"]}
    assert versus["planted top 3 less random 3"]["high"] < 0
    assert versus["planted top 3 less random 3"]["wins"] == 1.0
    assert "lowers the loss more than random 3 does" in found["text"]
    assert "does not clearly lower the loss more than bm25 top 3" in found["text"]


def test_the_changes_are_those_of_the_formula() -> None:
    """Query by query, with plain automatic differentiation; steps of equal length for all sets."""
    net = nn.Linear(3, 1).double()
    x, y = torch.randn(12, 3, dtype=torch.float64), torch.randn(12, dtype=torch.float64)
    train, queries = assay.read((x[:9], y[:9])), assay.read((x[9:], y[9:]))
    rows = [[0, 4], [8, 1], [2, 3]]
    found = one_step_check(Model(net, Regress()), train, scored(rows, train, queries), queries, k=2, step=1e-3)
    changes = []
    start = nn.utils.parameters_to_vector(net.parameters()).detach()

    def loss(module: nn.Module, k: int) -> Tensor:
        return 0.5 * (module(x[k]).squeeze() - y[k]).square()

    for q, chosen in enumerate(rows):
        g = torch.stack(
            [nn.utils.parameters_to_vector(torch.autograd.grad(loss(net, k), list(net.parameters()))) for k in chosen]
        )
        g = g.mean(0)
        moved = copy.deepcopy(net)
        nn.utils.vector_to_parameters(start - 1e-3 * start.norm() * g / g.norm(), moved.parameters())
        changes.append((loss(moved, 9 + q) - loss(net, 9 + q)).item())
    assert found["rows"][0]["mean"] == pytest.approx(np.mean(changes), rel=1e-8)
    assert found["step"] == 1e-3
    assert [row["set"] for row in found["rows"]] == ["planted top 2", "random 2"]  # arrays have no words


def test_the_model_is_untouched() -> None:
    mine = copy.deepcopy(model().module).train()
    before = {name: (t.clone(), t.dtype) for name, t in mine.state_dict().items()}
    one_step_check(Model(mine, model().task), TRAIN, scored(PLANTED), QUERIES, k=3)
    assert all(torch.equal(t, before[name][0]) for name, t in mine.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in mine.parameters())
    assert all(m.training for m in mine.modules())


def test_only_chosen_modules_step() -> None:
    """With one layer chosen, the copy's other weights stay: a smaller step, and another result."""
    part = Model(model().module, model().task, modules="*.mlp.*")
    found = one_step_check(part, TRAIN, scored(PLANTED), QUERIES, k=3, step=1e-3)
    whole = one_step_check(model(), TRAIN, scored(PLANTED), QUERIES, k=3, step=1e-3)
    assert found["rows"][0]["mean"] != whole["rows"][0]["mean"]
    assert found["rows"][0]["high"] < 0


def test_the_step_is_found_on_training_examples_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No query is looked at before the step is fixed, and the step follows from the training examples."""
    seen: list[list[str]] = []
    find, losses = one_step._Walker.small_step, one_step._Walker._losses

    def noted(self: Any, given: Any, reduction: Any) -> Tensor:
        seen.append([example.id for example in given])
        return losses(self, given, reduction)

    def found(self: Any, given: Any) -> float:
        assert not seen
        step = find(self, given)
        assert seen
        assert {name for names in seen for name in names} <= set(train.ids)
        return step

    train = assay.read([{"id": f"t{k}", "text": text} for k, text in enumerate(TRAIN.texts)])
    queries = assay.read([{"id": f"q{k}", "text": text} for k, text in enumerate(QUERIES.texts)])
    monkeypatch.setattr(one_step._Walker, "_losses", noted)
    monkeypatch.setattr(one_step._Walker, "small_step", found)
    steps = {
        one_step_check(model(), train, scored(rows, train, queries), queries, k=3)["step"]
        for rows in (PLANTED, [[0, 1, 2]] * 3)
        for _ in [seen.clear()]
    }
    assert len(steps) == 1
    assert 1e-2 / 2**20 < steps.pop() <= 1e-2


def test_bm25_is_not_its_own_baseline_and_short_results_are_refused() -> None:
    scores = assay.attribute(None, TRAIN, QUERIES, "bm25")
    found = one_step_check(model(), TRAIN, scores, QUERIES, k=2, step=1e-4)
    assert [row["set"] for row in found["rows"]] == ["bm25 top 2", "random 2"]
    short = assay.attribute(None, TRAIN, QUERIES, "bm25", top=2)
    with pytest.raises(MethodError, match="hold the 2 best examples of each query and the check takes 5"):
        one_step_check(model(), TRAIN, short, QUERIES, k=5)
    assert one_step_check(model(), TRAIN, short, QUERIES, k=2, step=1e-4)["rows"] == found["rows"]


@pytest.mark.parametrize("k", [0, len(TRAIN) + 1])
def test_what_is_refused(k: int) -> None:
    with pytest.raises(MethodError, match=f"k={k} examples of {len(TRAIN)}; give k between 1"):
        one_step_check(model(), TRAIN, scored(PLANTED), QUERIES, k=k)
    with pytest.raises(MethodError, match="that were scored"):
        one_step_check(model(), TRAIN[:-1], scored(PLANTED), QUERIES)
    with pytest.raises(MethodError, match="that were scored"):
        one_step_check(model(), TRAIN, scored(PLANTED), QUERIES[:2])
