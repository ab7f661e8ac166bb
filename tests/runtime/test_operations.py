"""The operations that a plan counts, against those that PyTorch counts while the method runs: products of matrices."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import assay
from assay import methods as m
from assay.methods.retrain.base import Retraining
from assay.methods.retrain.game import Function
from assay.runtime import curvature, fitted, gauss_newton, gradients, training, work
from assay.runtime.machine import Machine
from assay.tasks import Classify

ROWS, QUERIES = 192, 3


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which a second is an operation, and nothing else takes time; decompositions are not products."""
    alike = Machine(flops=1 / work.EFFICIENCY, bytes=float("inf"), resident=0)
    monkeypatch.setattr(work, "measure", lambda device: alike)
    for name in ("CALL", "EXAMPLE", "START"):
        monkeypatch.setattr(work, name, 0.0)
    monkeypatch.setattr(work, "SCATTERED", (0.0, 0.0))
    monkeypatch.setattr(work, "HASHED", float("inf"))
    for module in (work, gauss_newton):
        monkeypatch.setattr(module, "THIN", work.EFFICIENCY)
    monkeypatch.setattr(fitted, "SPEED", work.EFFICIENCY)
    monkeypatch.setattr(gradients, "DOUBLE", 1.0)
    for module in (fitted, curvature):
        monkeypatch.setattr(module, "DECOMPOSED", 0)


def make() -> nn.Module:
    return nn.Sequential(nn.Linear(60, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10))


def rows(n: int, seed: int = 0) -> assay.Examples:
    generator = np.random.default_rng(seed)
    return assay.read((generator.normal(size=(n, 60)).astype(np.float32), generator.integers(0, 10, n)))


def recipe(optimizer: str = "sgd") -> assay.Recipe:
    return assay.Recipe(make, Classify(), optimizer=optimizer, lr=0.01, epochs=4, batch_size=64, checkpoints=2)


CASES: dict[str, Any] = {
    "graddot": m.GradDot(),
    "gradcos factored": m.GradCos(compression="factored:8"),
    "trak": m.TRAK(compression="sjlt:128"),
    "logra": m.LoGra(compression="eigen:12"),
    "trackstar": m.TrackStar(compression="factored:8"),
    "less": m.LESS(compression="sjlt:256"),
    "kfac": m.KFAC(),
    "ekfac": m.EKFAC(),
    "ekfac-cg": m.EKFACCG(iterations=2, tolerance=1e-12),
    "lissa": m.LiSSA(depth=5),
    "datainf": m.DataInf(),
    "replay": m.Replay(),
    "source": m.Source(segments=2),
    "path-krylov": m.PathKrylov(segments=2, krylov=3),
}


@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize("name", CASES)
def test_products_are_counted(name: str) -> None:
    method, given = CASES[name], recipe("adam" if name == "less" else "sgd")
    train, queries = rows(ROWS), rows(QUERIES, 1)
    predicted = assay.plan(given, train, queries, method).seconds
    in_place: Any = {torch.ops.aten.addmm_: lambda total, a, b, *_, **__: 2 * a[0] * a[1] * b[1]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        assay.attribute(given, train, queries, method)
    ratio = predicted / counter.get_total_flops()
    assert 1 / 1.4 < ratio < 1.4, ratio


@pytest.mark.usefixtures("counting")
def test_training_is_counted_as_often_as_there_are_centres() -> None:
    train, queries = rows(ROWS), rows(QUERIES, 1)
    one, three = (
        assay.plan(recipe(), train, queries, m.GradDot(removed=0.2, centres=centres)).seconds for centres in (1, 3)
    )
    assert three == pytest.approx(3 * one)


GAMES: list[Retraining] = [
    m.LeaveOneOut(repeats=2),
    m.Datamodel(),
    m.AME(subsets=50),
    m.LeastCore(exact=0),
    m.LeastCore(),
    m.Shapley(),
    m.Shapley(exact=0, tolerance=0.0, stop="updates:3 | seconds:1000"),
    m.Shapley(exact=0, tolerance=0.0, sampler="stratified", stop="updates:4"),
    m.BetaShapley(exact=0, tolerance=0.0, stop="updates:5"),
    m.Banzhaf(exact=0, tolerance=0.0, stop="updates:64"),
    m.OwenShapley(stop="updates:6"),
]


@pytest.mark.parametrize("method", GAMES, ids=lambda method: f"{method.name} {getattr(method, 'stop', '')}")
def test_subsets_are_counted(method: Retraining) -> None:
    """As many as a game of nine players was asked about."""
    game: Any = Function(9, lambda members: float(np.sqrt(members.sum())))
    found = assay.value(game, rows(9), method=method)
    told = next(note for note in found.provenance.notes if "utilities" in note and "cache" in note)
    assert training.utilities(method, 9) == pytest.approx(int(told.split()[0].replace(",", "")), rel=0.1, abs=3), told
