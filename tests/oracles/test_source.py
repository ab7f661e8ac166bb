"""SOURCE against a naive transcription, its two limits, and finite differences of whole runs."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.oracles.test_path_krylov import FEW, derivative, gradients, line, net
from tests.support import batch_of
from torch import Tensor

import assay
from assay.curvature.base import Fit
from assay.curvature.ekfac import EKFAC, mean_ekfac
from assay.examples import Examples
from assay.gradients.blocks import lay_out
from assay.methods import PathKrylov, Source, TracIn
from assay.models import Checkpoint, Model
from assay.tasks import Classify, Loss, Regress
from assay.training import Recipe, Run

N, Q = 24, 5


def data(classes: int | None) -> tuple[Examples, Examples]:
    torch.manual_seed(1)
    x = torch.randn(N + Q, 3, dtype=torch.float64)
    y = torch.randint(0, classes, (N + Q,)) if classes else torch.randn(N + Q, dtype=torch.float64)
    return assay.read((x[:N], y[:N])), assay.read((x[N:], y[N:]))


def models(run: Run) -> list[Model]:
    return [Model(checkpoint.load(), run.model.task) for checkpoint in run.checkpoints]


def naive(run: Run, train: Examples, queries: Examples, count: int) -> Tensor:
    """The paper's formula term by term: for each segment the product of all later factors, with matrix functions."""
    at, size = models(run), len(run.states) // count
    steps = [0, *(state.step for state in run.states)]
    decay = run.update.optimizer.weight_decay  # type: ignore[attr-defined]
    momentum = run.update.optimizer.momentum  # type: ignore[attr-defined]
    forget, learn, mean = [], [], []
    for k in range(count):
        part = at[size * k : size * (k + 1)]
        fits = [Fit(m, train, lay_out(m), Loss()) for m in part]
        operator = mean_ekfac(EKFAC(), fits)  # EK-FAC has oracles of its own
        width = sum(block.size for block in operator.blocks)
        H = operator.apply(torch.eye(width, dtype=torch.float64)) + decay * torch.eye(width, dtype=torch.float64)
        e = float(run.rates[steps[size * k] : steps[size * (k + 1)]].sum()) / (1 - momentum)
        forget.append(torch.linalg.matrix_exp(-e * H))
        learn.append((torch.eye(width, dtype=torch.float64) - forget[-1]) @ torch.linalg.inv(H))
        mean.append(torch.stack([gradients(m, train) for m in part]).mean(0))
    total = torch.zeros(N, Q, dtype=torch.float64)
    for k in range(count):
        chain = gradients(run.model, queries)
        for later in reversed(range(k + 1, count)):
            chain = chain @ forget[later]
        total += mean[k] @ (chain @ learn[k]).T / N
    return total


@pytest.mark.parametrize("count", [1, 3])
def test_the_papers_formula(count: int) -> None:
    train, queries = data(3)
    recipe = Recipe(
        net(3),
        Classify(),
        optimizer="sgd",
        lr=0.3,
        momentum=0.5,
        weight_decay=0.05,
        epochs=6,
        batch_size=8,
        checkpoints=6,
    )
    run = recipe.train(train)
    right = naive(run, train, queries, count)
    scores = assay.attribute(run, train, queries, Source(segments=count)).array
    np.testing.assert_allclose(scores, right.numpy(), atol=1e-5 * float(right.abs().max()))


def test_the_mean_of_one_is_ekfac() -> None:
    train, _ = data(3)
    model = Model(net(3), Classify())
    fit = Fit(model, train, lay_out(model), Loss())
    one, mean = EKFAC().fit(fit), mean_ekfac(EKFAC(), [fit])
    v = torch.randn(3, sum(block.size for block in mean.blocks), dtype=torch.float64)
    torch.testing.assert_close(mean.apply(v), one.apply(v))
    twice = mean_ekfac(EKFAC(), [fit, fit])
    torch.testing.assert_close(twice.apply(v), one.apply(v))


def test_least_squares_by_finite_differences_of_the_run() -> None:
    """Better with more segments, as the paper has it."""
    train, queries = data(None)
    recipe = Recipe(
        line, Regress(), optimizer="sgd", lr=0.02, weight_decay=0.1, epochs=24, batch_size=N, checkpoints=24
    )
    right = derivative(recipe, train, queries).numpy().ravel()
    found = [assay.attribute(recipe, train, queries, Source(segments=k)).array[:FEW].ravel() for k in (1, 3, 12)]
    correlations = [float(np.corrcoef(array, right)[0, 1]) for array in found]
    slopes = [float(array @ right / (right @ right)) for array in found]
    assert correlations[0] < correlations[1] < correlations[2]
    assert correlations[2] > 0.99, (correlations, slopes)
    assert 0.85 < slopes[2] < 1.15, slopes


def test_endless_training_is_influence() -> None:
    """One segment of a very long run: (1 - exp(-e s)) / s is 1 / s."""
    train, queries = data(None)
    recipe = Recipe(
        line, Regress(), optimizer="sgd", lr=0.2, weight_decay=0.3, epochs=200, batch_size=N, checkpoints=50,
    )  # fmt: skip
    run = recipe.train(train)
    end = Model(run.model.module, Regress(), checkpoints=run.checkpoints[-2:])
    last = replace(run, model=end, states=run.states[-2:])
    scores = assay.attribute(last, train, queries, Source(segments=1)).array
    model = run.model
    batch = batch_of(model, train)
    x = torch.cat([batch.tensors["x"], torch.ones(N, 1, dtype=torch.float64)], 1)
    H = EKFAC().fit(Fit(model, train, lay_out(model), Loss())).apply(torch.eye(4, dtype=torch.float64))
    assert float((H - x.T @ x / N).norm() / H.norm()) < 0.6  # labels are sampled: the right matrix up to noise
    right = (
        gradients(model, train) @ torch.linalg.inv(H + 0.3 * torch.eye(4).double()) @ gradients(model, queries).T / N
    )
    np.testing.assert_allclose(scores, right.numpy(), rtol=1e-3, atol=1e-3 * float(right.abs().max()))


def test_hardly_any_training_is_tracin_in_nats() -> None:
    train, queries = data(3)
    recipe = Recipe(net(3), Classify(), optimizer="sgd", lr=1e-6, epochs=4, batch_size=N, checkpoints=2)
    run = recipe.train(train)
    scores = assay.attribute(run, train, queries, Source(segments=1)).array
    stages = [Checkpoint(c.name, 2e-6 / N, c.load) for c in run.checkpoints]
    right = assay.attribute(Model(run.model.module, Classify(), checkpoints=stages), train, queries, TracIn()).array
    np.testing.assert_allclose(scores, right, rtol=1e-4, atol=1e-5 * np.abs(right).max())


RECIPES: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": "adam", "lr": 0.01, "weight_decay": 0.05},
    "adamw": {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.5},
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_form_for_adam_by_finite_differences_of_the_run(name: str) -> None:
    """Our reconstruction holds in order, not to the digit: what it leaves out are the derivative of the second moment and,
    in EK-FAC, P within a block. Path-Krylov leaves out the first only.
    """
    train, queries = data(3)
    recipe = Recipe(net(3), Classify(), epochs=6, batch_size=6, checkpoints=12, **RECIPES[name])
    right = derivative(recipe, train, queries).numpy().ravel()
    for method, least in ((Source(segments=6), 0.85), (PathKrylov(segments=6, krylov=12), 0.9)):
        array = assay.attribute(recipe, train, queries, method).array[:FEW].ravel()
        assert np.corrcoef(array, right)[0, 1] > least, (method.name, np.corrcoef(array, right)[0, 1])
        assert 0.85 < array @ right / (right @ right) < 1.15, method.name
