"""Reliability: overlaps and correlations recomputed from plain runs; exact methods do not depend on seeds."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.support import array_model
from torch import nn

import assay
from assay.errors import MethodError
from assay.evaluate import reliability
from assay.methods import BM25, TRAK, GradCos, GradDot, Random

N, Q, K = 40, 6, 8


def data() -> tuple[Any, assay.Examples, assay.Examples]:
    torch.manual_seed(0)
    x = torch.randn(N + Q, 12, dtype=torch.float64)
    train, queries = assay.read((x[:N], torch.zeros(N))), assay.read((x[N:], torch.zeros(Q)))
    net = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 2))
    return array_model(net), train, queries


def top(column: np.ndarray, k: int = K) -> set[int]:
    return set(np.argsort(-column, kind="stable")[:k].tolist())


def test_a_small_projection_is_unstable_and_said_to_be() -> None:
    model, train, queries = data()
    method = GradDot(compression="factored:1")
    found = reliability(model, train, queries, method, k=K, runs=2)
    runs = [GradDot(compression="factored:1", seed=s).fit(model, train).score(queries).array for s in range(3)]
    for q in range(Q):
        pairs = [(0, 1), (0, 2), (1, 2)]
        shares = [len(top(runs[a][:, q]) & top(runs[b][:, q])) / K for a, b in pairs]
        assert found.overlaps["seed"][q] == pytest.approx(np.mean(shares))
        each = [np.corrcoef(runs[a][:, q], runs[b][:, q])[0, 1] for a, b in pairs]
        assert found.correlation is not None
        assert found.correlation[q] == pytest.approx(np.mean(each), abs=1e-6)
    assert set(found.overlaps) == {"seed"}
    assert "unstable" in found.verdicts
    assert "'factored:1' is too small" in found.text
    assert found.skipped == {"data": "the scores do not depend on it", "damping": "the method has no damping"}
    evidence = found.evidence()
    assert [entry["verdict"] for entry in evidence["queries"]] == list(found.verdicts)
    assert evidence["seed_correlation"] == pytest.approx(found.correlation.mean())


def test_exact_gradients_depend_on_neither_seed_nor_data() -> None:
    model, train, queries = data()
    found = reliability(model, train, queries, GradCos(), k=K)
    assert found.overlaps == {}
    assert set(found.verdicts) == {"not measured"}
    assert found.skipped["seed"] == "the scores do not depend on it"
    assert found.text.startswith("Not measured")


def classified() -> tuple[assay.Model, assay.Examples, assay.Examples]:
    torch.manual_seed(0)
    x = torch.randn(N + Q, 5)
    y = (x[:, 0] > 0).long()
    model = assay.Model(nn.Linear(5, 2), assay.tasks.Classify())
    return model, assay.read((x[:N], y[:N])), assay.read((x[N:], y[N:]))


def test_damping_and_halves_of_the_data() -> None:
    model, train, queries = classified()
    settings: dict[str, Any] = {"compression": "none"}
    found = reliability(model, train, queries, TRAK(damping=0.3, **settings), k=K, runs=2, seed=5)
    plain = TRAK(damping=0.3, **settings).fit(model, train).score(queries).array
    damped = [TRAK(damping=lam, **settings).fit(model, train).score(queries).array for lam in (0.9, 0.1)]
    halves = [np.sort(np.random.default_rng((5, j)).permutation(N)[: N // 2]) for j in range(2)]
    fitted = [TRAK(damping=0.3, **settings).fit(model, train.select(rows)).score(queries).array for rows in halves]
    for q in range(Q):
        stays = [len(top(plain[:, q]) & top(other[:, q])) / K for other in damped]
        assert found.overlaps["damping"][q] == pytest.approx(np.mean(stays))
        kept = [
            len(top(plain[rows, q], K // 2) & top(half[:, q], K // 2)) / (K // 2)
            for rows, half in zip(halves, fitted, strict=True)
        ]
        assert found.overlaps["data"][q] == pytest.approx(np.mean(kept))
    assert set(found.overlaps) == {"data", "damping"}
    assert [v == "stable" for v in found.verdicts] == (found.worst >= 0.7 - 1e-9).tolist()


def test_random_scores_are_unstable_and_bm25_needs_no_seed() -> None:
    _, train, queries = data()
    found = reliability(None, train, queries, Random(), k=K)
    assert found.stable == 0
    assert "draws at random decides" in found.text
    texts = assay.read([f"a b c {k} word{k % 3}" for k in range(20)])
    words = reliability(None, texts, texts[:3], BM25(), k=4)
    assert words.skipped["seed"] == "the method has no seed"


def test_time_and_bad_input() -> None:
    model, train, queries = data()
    scores = GradDot(compression="factored:1").fit(model, train).score(queries)
    found = reliability(model, train, queries, None, scores, k=K, minutes=1e-9)
    assert "more than there is time for" in found.skipped["seed"]
    assert set(found.verdicts) == {"not measured"}
    for given, says in (
        ({}, "Neither a method nor scores"),
        ({"method": "self-influence"}, "gives values"),
        ({"method": "graddot", "runs": 0}, "runs is 0"),
        ({"method": "graddot", "k": N + 1}, "give k between"),
    ):
        with pytest.raises(MethodError, match=says):
            reliability(model, train, queries, **given)
