"""The tail patch against a plain training loop, and the randomised-model check against its refusals."""

import copy

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from tests.evaluate.test_one_step import OTHER, PLANTED, QUERIES, TRAIN, model, scored
from torch import nn

import assay
from assay.errors import MethodError, ModelError
from assay.evaluate import randomised, tail_patch
from assay.evaluate.metrics.randomised import reinitialised
from assay.methods import BM25, GradDot
from assay.models import Model
from assay.tasks import Regress


def linear() -> tuple[Model, assay.Examples, assay.Examples, torch.Tensor, torch.Tensor]:
    x, y = torch.randn(14, 3, dtype=torch.float64), torch.randn(14, dtype=torch.float64)
    net = nn.Linear(3, 1).double()
    return Model(net, Regress()), assay.read((x[:10], y[:10])), assay.read((x[10:], y[10:])), x, y


def test_the_changes_are_those_of_a_plain_training_loop() -> None:
    made, train, queries, x, y = linear()
    rows = [[0, 4], [8, 1], [2, 3], [5, 9]]
    found = tail_patch(made, train, scored(rows, train, queries), queries, k=2, steps=3, lr=0.05)
    for q, chosen in enumerate(rows):
        net = copy.deepcopy(made.module)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.05)

        def loss(module: nn.Module, positions: list[int]) -> torch.Tensor:
            return 0.5 * (module(x[positions]).squeeze(1) - y[positions]).square().mean()

        before = loss(net, [10 + q]).item()
        for _ in range(3):
            optimizer.zero_grad()
            loss(net, chosen).backward()
            optimizer.step()
        assert found.per_query["planted"][q] == pytest.approx(loss(net, [10 + q]).item() - before, rel=1e-6)
    assert (found.facts["steps"], found.facts["lr"], found.higher) == (3, 0.05, False)


def test_training_on_copies_of_the_query_beats_random_examples_and_leaves_the_model() -> None:
    before = model().fingerprint()
    found = tail_patch(model(), TRAIN, scored(PLANTED), QUERIES, k=3)
    assert list(found.rows) == ["planted", "bm25", "embedding", "random"]
    assert found.first.high < 0
    assert found.better("random") > 0.99
    wrong = tail_patch(model(), TRAIN, scored([[0, 1, 2]] * 3), QUERIES, k=3)
    assert wrong.better("bm25") < 0.01  # a method that ranks the wrong examples comes out behind
    assert model().fingerprint() == before


def test_tail_patch_refuses() -> None:
    with pytest.raises(MethodError, match="steps is 0"):
        tail_patch(model(), TRAIN, scored(PLANTED), QUERIES, k=3, steps=0)
    with pytest.raises(MethodError, match="Give the examples and queries that were scored"):
        tail_patch(model(), TRAIN[:5], scored(PLANTED), QUERIES, k=3)


def test_scores_of_a_randomised_model() -> None:
    """Correlations are scipy's; lexical scores, which ignore the model, fail; the trained model is refused in its place."""
    scores = GradDot().fit(model(), TRAIN).score(QUERIES)
    other = reinitialised(model(), 3)
    found = randomised(scores, model(), TRAIN, QUERIES, other)
    again = GradDot().fit(other, TRAIN).score(QUERIES)
    expected = [spearmanr(scores.array[:, q], again.array[:, q]).statistic for q in range(3)]
    assert found.per_query["graddot"] == pytest.approx(expected)
    assert found.facts["passed"] == (found.first.high < 0.5)
    words = randomised(BM25().fit(None, TRAIN).score(QUERIES), model(), TRAIN, QUERIES)
    assert words.mean == pytest.approx(1.0)
    assert words.facts["passed"] is False


def test_a_model_that_was_not_randomised_is_refused() -> None:
    scores = scored(PLANTED)
    with pytest.raises(ModelError, match="not randomised"):
        randomised(scores, model(), TRAIN, QUERIES, model())
    nearly = copy.deepcopy(model().module)
    with torch.no_grad():
        for parameter in nearly.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    with pytest.raises(ModelError, match="not randomised"):
        randomised(scores, model(), TRAIN, QUERIES, Model(nearly, model().task))
    part = reinitialised(model()).module
    name, weight = next(iter(model().module.named_parameters()))
    with torch.no_grad():
        dict(part.named_parameters())[name].copy_(weight)
    with pytest.raises(ModelError, match=r"1 of \d+ weight tensors"):
        randomised(scores, model(), TRAIN, QUERIES, Model(part, model().task))
    with pytest.raises(ModelError, match="other weights by name or shape"):
        randomised(scores, model(), TRAIN, QUERIES, linear()[0])


def test_reinitialised_weights_keep_their_values_and_the_model() -> None:
    before = model().fingerprint()
    other = reinitialised(model(), 1)
    for one, two in zip(model().module.parameters(), other.module.parameters(), strict=True):
        assert np.array_equal(one.detach().flatten().sort().values, two.detach().flatten().sort().values)
    assert model().fingerprint() == before
    assert len(OTHER) == 18
