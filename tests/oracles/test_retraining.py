"""What the sign promises: leave the most helpful examples out of training, and the query's loss ends higher."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import assay
from assay.examples import Examples
from assay.methods import METHODS
from assay.methods.gradient.base import GradientMethod
from assay.methods.gradient.unrolled import Unrolled
from assay.tasks import Classify
from assay.training import Recipe, Run

N, QUERIES, LEFT_OUT = 80, 12, 12
OPTIONS: dict[str, dict[str, Any]] = {
    "trak": {"compression": "sjlt:256"}, "lissa": {"depth": 100}, "dda": {"measure": "loss"}, "infra": {"mlp": "*"},
}  # fmt: skip
METHOD_TYPES = [method for method in METHODS if issubclass(method, GradientMethod | Unrolled)]


@cache
def world(optimizer: str) -> tuple[Examples, Examples, Recipe, Run]:
    """Three overlapping clouds, a fifth of whose labels are wrong, and a small network trained on them."""
    seed = torch.Generator().manual_seed(0)
    centres = 1.5 * torch.randn(3, 5, generator=seed)
    y = torch.randint(0, 3, (N + QUERIES,), generator=seed)
    x = centres[y] + torch.randn(N + QUERIES, 5, generator=seed)
    wrong = torch.rand(N, generator=seed) < 0.2
    y[:N][wrong] = (y[:N][wrong] + 1) % 3
    train, queries = assay.read((x[:N], y[:N])), assay.read((x[N:], y[N:]))

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 3))

    rate = {"sgd": 0.2, "adam": 0.02}[optimizer]
    recipe = Recipe(make, Classify(), optimizer=optimizer, lr=rate, epochs=12, batch_size=16, checkpoints=4)
    return train, queries, recipe, recipe.train(train)


@pytest.mark.parametrize("kind", METHOD_TYPES, ids=lambda kind: kind.name)
def test_leaving_out_moves_the_loss_as_the_sign_says(kind: type[GradientMethod | Unrolled]) -> None:
    train, queries, recipe, run = world("adam" if kind.name == "less" else "sgd")
    encoded, before = recipe.encode(train), run.loss_of(queries).numpy()
    given = recipe if issubclass(kind, Unrolled) else run.model
    scores = assay.attribute(given, train, queries, kind(**OPTIONS.get(kind.name, {}))).array
    order = np.argsort(-scores, axis=0)
    change = np.zeros((2, QUERIES))
    for q in range(QUERIES):
        for side, rows in enumerate((order[:LEFT_OUT, q], order[-LEFT_OUT:, q])):
            weights = np.ones(N)
            weights[rows] = 0
            change[side, q] = recipe.train(encoded, weights).loss_of(queries)[q] - before[q]
    helpful, harmful = change.mean(1)
    assert helpful > 0.02, change
    assert harmful < 0.0, change
    assert (change[0] > change[1]).mean() >= 0.75
