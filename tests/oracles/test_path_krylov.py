"""Path-Krylov against its formula with dense matrices, and against finite differences of whole training runs."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.support import batch_of, shaken
from torch import Tensor, nn

import assay
from assay.errors import MethodError
from assay.examples import Examples
from assay.gradients.blocks import lay_out, to_vectors
from assay.gradients.functional import dense_gradients
from assay.methods.gradient.path_krylov import PathKrylov
from assay.models import Model
from assay.tasks import Classify, Loss, Regress
from assay.training import Recipe, Run

N, Q, FEW = 24, 5, 8


def net(out: int) -> nn.Module:
    torch.manual_seed(0)
    return shaken(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, out)).double())


def data(classes: int | None, width: int = 3) -> tuple[Examples, Examples]:
    torch.manual_seed(1)
    x = torch.randn(N + Q, width, dtype=torch.float64)
    y = torch.randint(0, classes, (N + Q,)) if classes else torch.randn(N + Q, dtype=torch.float64)
    return assay.read((x[:N], y[:N])), assay.read((x[N:], y[N:]))


def gradients(model: Model, rows: Examples) -> Tensor:
    return to_vectors(lay_out(model).blocks, dense_gradients(model, batch_of(model, rows), Loss()))


def gauss_newton(model: Model, rows: Examples) -> Tensor:
    """Dense, from the definition."""
    blocks, batch = lay_out(model).blocks, batch_of(model, rows)
    z = model.task.outputs(model.module, batch)
    J = [
        [
            to_vectors(
                blocks,
                dict(
                    zip(
                        model.parameters,
                        (g[None] for g in torch.autograd.grad(o, list(model.parameters.values()), retain_graph=True)),
                        strict=True,
                    )
                ),
            )[0]
            for o in row
        ]
        for row in z
    ]
    total = torch.zeros(len(J[0][0]), len(J[0][0]), dtype=torch.float64)
    for row, out in zip(J, z.detach(), strict=True):
        p = out.softmax(0)
        D = torch.diag(p) - p[:, None] * p[None] if isinstance(model.task, Classify) else torch.eye(len(out)).double()
        total += torch.stack(row).T @ D @ torch.stack(row)
    return total / len(J)


def naive(run: Run, train: Examples, queries: Examples, count: int) -> Tensor:
    """The formula with dense matrices; of Adam in the coordinates of the parameters, P H not being symmetric."""
    end = run.model
    u, total = gradients(end, queries), torch.zeros(N, Q, dtype=torch.float64)
    blocks, optimizer = lay_out(end).blocks, run.update.optimizer
    steps = [0, *(state.step for state in run.states)]
    decay = optimizer.weight_decay  # type: ignore[attr-defined]
    for k in reversed(range(count)):
        middle = Model(run.checkpoints[2 * k].load(), end.task)
        e = float(run.rates[steps[2 * k] : steps[2 * k + 2]].sum())
        H = gauss_newton(middle, train) * float(run.weights.mean())
        P = torch.ones(len(H), dtype=torch.float64)
        if "second" in run.states[0].moments:
            v = {n: t[None] for n, t in run.moment("second", 2 * k).items()}
            v_hat = to_vectors(blocks, v)[0] / (1 - optimizer.betas[1] ** run.states[2 * k].step)  # type: ignore[attr-defined]
            P = 1 / (v_hat.sqrt() + optimizer.eps)  # type: ignore[attr-defined]
        else:
            e /= 1 - optimizer.momentum  # type: ignore[attr-defined]
        eye = torch.eye(len(H), dtype=torch.float64)
        plain = not isinstance(optimizer, assay.training.AdamW)
        A = P[:, None] * (H + decay * eye * plain) + decay * eye * (not plain)  # delta' = -A delta - P g
        forget = torch.linalg.matrix_exp(-e * A)
        M = torch.zeros(2 * len(A), 2 * len(A), dtype=torch.float64)  # exp of [[-eA, eI], [0, 0]] holds the integral
        M[: len(A), : len(A)], M[: len(A), len(A) :] = -e * A, e * eye
        learn = torch.linalg.matrix_exp(M)[: len(A), len(A) :]
        seen = torch.zeros(N, dtype=torch.float64)  # an example learns when it is seen, at the rate of that step
        for step in range(steps[2 * k], steps[2 * k + 2]):
            for i in run.order.rows(step).tolist():
                seen[i] += float(run.rates[step])
        total += (seen / seen.mean())[:, None] * (gradients(middle, train) @ (P[:, None] * (learn.T @ u.T))) / N
        u = (forget.T @ u.T).T
    return total


RECIPES: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd", "lr": 0.3, "momentum": 0.5, "weight_decay": 0.05, "schedule": "linear"},
    "adam": {"optimizer": "adam", "lr": 0.02, "weight_decay": 0.05},
    "adamw": {"optimizer": "adamw", "lr": 0.02, "weight_decay": 0.5, "schedule": "cosine"},
}


@pytest.mark.parametrize(("name", "removed"), [("sgd", 0.5), ("adam", 0.0), ("adamw", 0.5)])
def test_the_formula_with_dense_matrices(name: str, removed: float) -> None:
    train, queries = data(3)
    recipe = Recipe(net(3), Classify(), epochs=4, batch_size=6, checkpoints=4, **RECIPES[name])
    run = recipe.train(train, np.full(N, 1 - removed))
    right = naive(run, train, queries, 2)
    method = PathKrylov(segments=2, krylov=40, removed=removed, replayed=0)
    scores = assay.attribute(recipe, train, queries, method).array
    np.testing.assert_allclose(scores, right.numpy(), rtol=1e-4, atol=2e-6 * float(right.abs().max()))


def line() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 1).double()


def derivative(recipe: Recipe, train: Examples, queries: Examples, centre: float = 1.0) -> Tensor:
    """- dL_q / dw_i of the whole run for the first few examples, by central differences of retraining."""
    encoded, rows = recipe.encode(train), []
    for i in range(FEW):
        ends = []
        for h in (1e-3, -1e-3):
            weights = np.full(N, centre)
            weights[i] += h
            ends.append(recipe.train(encoded, weights).loss_of(queries))
        rows.append(-(ends[0] - ends[1]) / 2e-3)
    return torch.stack(rows)


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_least_squares_by_finite_differences_of_the_run(momentum: float) -> None:
    """Curvature is constant, and the middle of a segment stands well for it: what is left is that steps are finite."""
    train, queries = data(None)
    recipe = Recipe(
        line, Regress(), optimizer="sgd", lr=0.02 * (1 - momentum), momentum=momentum, weight_decay=0.1, epochs=24,
        batch_size=N, checkpoints=24,
    )  # fmt: skip
    right = derivative(recipe, train, queries).numpy()
    for count in (1, 12):
        scores = assay.attribute(recipe, train, queries, PathKrylov(segments=count, replayed=0)).array[:FEW]
        assert float(np.linalg.norm(scores - right) / np.linalg.norm(right)) < 0.03


def test_what_it_takes_is_told() -> None:
    train, queries = data(3)
    recipe = Recipe(net(3), Classify(), epochs=2, batch_size=12, lr=0.01, clip=0.1)
    with pytest.raises(
        MethodError, match=r"path-krylov with 3 segments takes 6 checkpoints.*the run has 4 over 4 steps"
    ):
        assay.attribute(recipe, train, queries, PathKrylov(replayed=0))
    run = Recipe(net(3), Classify(), epochs=2, batch_size=12, lr=0.01, clip=0.1, checkpoints=4).train(train)
    scores = assay.attribute(run, train, queries, PathKrylov(segments=2))
    assert "clips" in scores.provenance.notes[0]
    np.testing.assert_array_equal(
        scores.array, assay.attribute(recipe, train, queries, PathKrylov(segments=2, replayed=0)).array
    )
    with pytest.raises(MethodError, match="trained on 24 examples and 5 were given"):
        assay.attribute(run, queries, queries, PathKrylov(segments=2))
    with pytest.raises(MethodError, match="removed"):
        assay.attribute(run, train, queries, PathKrylov(segments=2, removed=0.5))
    with pytest.raises(MethodError, match="follows a training run, and was given Model"):
        assay.attribute(run.model, train, queries, PathKrylov())
