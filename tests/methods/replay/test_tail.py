"""The replayed end of a run against a naive run whose weights and parameters are moved at its last steps only."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import assay
from assay.errors import MethodError
from assay.examples import Examples
from assay.gradients.blocks import lay_out, to_vectors
from assay.methods import PathKrylov, Replay
from assay.methods.replay.tail import Tail
from assay.training import Recipe, State
from assay.training.randomness import forked

N, QUERIES, SHARE = 20, 3, 0.4
RECIPES: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd", "lr": 0.3},
    "adamw": {"optimizer": "adamw", "lr": 0.03, "weight_decay": 0.1, "eps": 1e-4},
}


def world(name: str) -> tuple[Recipe, Examples, Examples]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N + QUERIES, 4, generator=generator, dtype=torch.float64)
    y = (x.sum(1) > 0).long() + (x[:, 0] > 1).long()

    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()

    recipe = Recipe(net, assay.tasks.Classify(), epochs=3, batch_size=8, **RECIPES[name])
    return recipe, assay.read((x[:N], y[:N])), assay.read((x[N:], y[N:]))


def losses(recipe: Recipe, train: Examples, queries: Examples, state: State, weights: np.ndarray) -> Tensor:
    """The queries' losses when the run goes on from `state` with these weights."""
    steps = recipe.steps(train, weights)
    params, moments = state.params, state.moments
    with forked():
        for step in range(state.step, len(steps)):
            gradient, _ = steps.gradient(params, step)
            params, moments = steps.update(params, moments, gradient, step)
        steps.install(params)
        batch = recipe.encode(queries).batch(torch.arange(QUERIES), steps.device)
        return recipe.task.measure(steps.module, batch, assay.tasks.Loss("mean")).detach()


def moved(state: State, k: int, h: float) -> State:
    params = state.params.clone()
    params[k] += h
    return State(state.step, params, state.moments, state.buffers)


@pytest.mark.parametrize("name", list(RECIPES))
def test_the_end_by_finite_differences(name: str) -> None:
    recipe, train, queries = world(name)
    weights, h = np.full(N, 0.5), 1e-5
    tail = Tail.of(recipe, train, weights, SHARE, 2)
    state, model = tail.before.states[-1], tail.run.model
    assert state.step == len(tail.tape.steps) - tail.count
    blocks = lay_out(model).blocks
    scores, side = tail.replay(queries, "mean", blocks)
    for i in (0, 7, 13):
        ends = []
        for sign in (1, -1):
            other = weights.copy()
            other[i] += sign * h
            ends.append(losses(recipe, train, queries, state, other))
        right = -(ends[0] - ends[1]).numpy() / (2 * h)
        np.testing.assert_allclose(scores[i], right, rtol=1e-5, atol=1e-6 * np.abs(scores).max())
    columns = [
        (losses(recipe, train, queries, moved(state, k, h), weights)
         - losses(recipe, train, queries, moved(state, k, -h), weights)) / (2 * h)
        for k in range(len(state.params))
    ]  # fmt: skip
    flat = torch.stack(columns, 1)
    layout = tail.run.layout
    named = {
        key: piece.view(QUERIES, *shape)
        for key, shape, piece in zip(layout.names, layout.shapes, torch.split(flat, layout.sizes, 1), strict=True)
    }
    torch.testing.assert_close(side.features, to_vectors(blocks, named), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(torch.as_tensor(side.losses), tail.run.loss_of(queries), rtol=1e-9, atol=0)


def test_the_more_is_replayed_the_nearer_to_replay() -> None:
    """Small batches at a large rate: what was seen last counts most, which no average over a segment knows."""
    recipe, train, queries = world("sgd")
    recipe = replace(recipe, lr=1.0, batch_size=2, epochs=6)
    exact = assay.attribute(recipe, train, queries, Replay(removed=0.5)).array
    errors = []
    for share in (0.0, 0.3, 0.9):
        method = PathKrylov(segments=1, removed=0.5, replayed=share)
        found = assay.attribute(recipe, train, queries, method).array
        errors.append(float(np.linalg.norm(found - exact) / np.linalg.norm(exact)))
    assert errors[2] < 0.7 * errors[1] < 0.7 * 0.7 * errors[0], errors


def test_a_finished_run_cannot_be_replayed() -> None:
    recipe, train, queries = world("sgd")
    run = Recipe(recipe.make_model, recipe.task, epochs=3, batch_size=8, checkpoints=2).train(train)
    with pytest.raises(MethodError, match=r"assay\.Recipe"):
        assay.attribute(run, train, queries, PathKrylov(segments=1, replayed=0.1))
