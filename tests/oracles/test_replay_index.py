"""The replay index against exact replay, and its bases against dense linear algebra."""

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import assay
from assay.errors import InputError, MethodError
from assay.examples import Examples
from assay.methods import ReplayIndex
from assay.methods.replay.basis import captured, principal, unit
from assay.methods.replay.index import Answering
from assay.tasks import Classify
from assay.training import Recipe

N, SAMPLE, QUERIES = 40, 24, 6
BASES = pytest.mark.parametrize("basis", ["unit", "plain"])


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def recipe(**options: Any) -> Recipe:
    settings = {"optimizer": "adamw", "lr": 0.02, "epochs": 4, "batch_size": 10, "weight_decay": 0.1} | options
    return Recipe(network, Classify(), **settings)


@cache
def world() -> tuple[Examples, Examples, Examples]:
    """Training examples, a sample of queries, and other queries."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 3, (N + SAMPLE + QUERIES,), generator=generator)
    centres = 1.5 * torch.randn(3, 4, generator=generator, dtype=torch.float64)
    x = centres[y] + torch.randn(len(y), 4, generator=generator, dtype=torch.float64)
    ends = (0, N, N + SAMPLE, N + SAMPLE + QUERIES)
    first, second, third = (assay.read((x[a:b], y[a:b])) for a, b in pairwise(ends))
    return first, second, third


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@BASES
@pytest.mark.parametrize("options", [{}, {"removed": 0.3, "centres": 2}])
def test_queries_in_the_span_are_answered_exactly(basis: str, options: dict[str, Any]) -> None:
    train, sample, _ = world()
    expected = assay.attribute(recipe(), train, sample, assay.methods.Replay(**options)).array
    scores = ReplayIndex(rank=100, basis=basis, **options).fit(recipe(), train, sample).score(sample[4:])
    assert relative(scores.array, expected[:, 4:]) < 1e-4
    assert np.allclose(scores.queries.columns["captured"], 1.0)
    assert scores.unit == "nats of query loss per removed example"


@BASES
def test_answers_for_new_queries_improve_with_the_rank(basis: str) -> None:
    train, sample, queries = world()
    expected = assay.attribute(recipe(), train, queries, "replay").array
    found = [ReplayIndex(rank=rank, basis=basis).fit(recipe(), train, sample).score(queries) for rank in (2, 12)]
    few, many = (np.mean([np.corrcoef(s.array[:, q], expected[:, q])[0, 1] for q in range(QUERIES)]) for s in found)
    assert many > 0.9
    assert many > few
    captured = [np.mean(s.queries.columns["captured"]) for s in found]
    assert captured[0] < captured[1]
    notes = " ".join(found[1].provenance.notes)
    assert "correlate with their exact replay by" in notes
    assert "the basis captures" in notes


def test_without_a_sample_training_examples_stand_for_queries() -> None:
    train, _, _ = world()
    expected = assay.attribute(recipe(), train, train[:5], "replay").array
    scores = assay.attribute(recipe(), train, train[:5], ReplayIndex(rank=100, sample=N))
    assert np.mean([np.corrcoef(scores.array[:, q], expected[:, q])[0, 1] for q in range(5)]) > 0.95


def test_a_margin_keeps_its_sign() -> None:
    train, sample, _ = world()
    expected = assay.attribute(recipe(), train, sample[4:8], assay.methods.Replay(measure="margin")).array
    fitted = ReplayIndex(rank=100, measure="margin", basis="plain").fit(recipe(), train, sample)
    assert relative(fitted.score(sample[4:8]).array, expected) < 1e-4


# -- bases -------------------------------------------------------------------------------------------------------------


def sampled() -> Tensor:
    return torch.randn(20, 30, dtype=torch.float64) * torch.logspace(0, -1.5, 30, dtype=torch.float64)


def test_directions_are_those_of_the_singular_value_decomposition() -> None:
    G = sampled()
    directions = principal(G, 5)
    _, _, V = torch.linalg.svd(G, full_matrices=False)
    torch.testing.assert_close((directions @ V[:5].T).abs(), torch.eye(5, dtype=torch.float64), atol=1e-8, rtol=0)
    queries = torch.stack([V[5] + V[0], 3 * V[2], V[7], 0 * V[0]])
    expected = torch.tensor([0.5, 1.0, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(captured(queries, queries @ directions.T), expected)


def test_long_gradients_do_not_take_all_directions() -> None:
    G = sampled()
    G[0] *= 1e3
    one = G[0] / G[0].norm()
    assert float(principal(G, 1)[0] @ one) ** 2 > 0.999
    assert float(principal(unit(G), 1)[0] @ one) ** 2 < 0.9
    torch.testing.assert_close(unit(G).norm(dim=1), torch.ones(20, dtype=torch.float64))
    assert not bool(unit(torch.zeros(2, 3)).any())


def test_no_more_directions_than_the_sample_spans() -> None:
    G = sampled()
    assert len(principal(torch.cat([G[:3], G[:3]]), 10)) == 3
    assert len(principal(torch.zeros(4, 30), 2)) == 0


# -- on disk -----------------------------------------------------------------------------------------------------------


@BASES
def test_an_index_comes_back_from_disk(basis: str, tmp_path: Path) -> None:
    train, sample, queries = world()
    fitted = ReplayIndex(rank=6, basis=basis, removed=0.2, centres=2).fit(recipe(), train, sample)
    fitted.save(tmp_path / "index")
    loaded = Answering.load(tmp_path / "index", recipe())
    before, after = fitted.score(queries), loaded.score(queries)
    np.testing.assert_array_equal(before.array, after.array)
    assert list(after.train_ids) == list(train.ids)
    assert after.provenance.parameters == before.provenance.parameters
    with pytest.raises(MethodError, match="differs in: lr"):
        Answering.load(tmp_path / "index", recipe(lr=0.1))
    (tmp_path / "index" / "features.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="damaged"):
        Answering.load(tmp_path / "index", recipe())


def test_another_kind_of_run_is_refused(tmp_path: Path) -> None:
    train, _, queries = world()
    assay.attribute(recipe(), train, queries, "replay").save(tmp_path)
    with pytest.raises(InputError, match="kind 'scores'"):
        Answering.load(tmp_path, recipe())


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"sample": 1}, {"basis": "best"}])
def test_parameters_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(MethodError):
        ReplayIndex(**wrong)
