"""LiSSA against the dense solve."""

import numpy as np
import pytest
import torch
from tests.support import batch_of, shaken
from torch import Tensor, nn

import assay
from assay.curvature.gauss_newton import GaussNewton
from assay.errors import MethodError
from assay.examples import Examples
from assay.gradients.blocks import lay_out, to_vectors
from assay.gradients.functional import dense_gradients
from assay.methods import LiSSA
from assay.methods.gradient.lissa import Series
from assay.models import Model
from assay.tasks import Classify, Loss

N = 30


def case() -> tuple[Model, Examples, Examples]:
    torch.manual_seed(0)
    x, y = torch.randn(N + 4, 3, dtype=torch.float64), torch.randint(0, 3, (N + 4,))
    model = Model(shaken(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()), Classify())
    return model, assay.read((x[:N], y[:N])), assay.read((x[N:], y[N:]))


def gradients(model: Model, rows: Examples) -> Tensor:
    return to_vectors(lay_out(model).blocks, dense_gradients(model, batch_of(model, rows), Loss()))


def matrix(model: Model, rows: Examples, lam: float) -> Tensor:
    H = GaussNewton.on(model, rows, lay_out(model).blocks)  # itself held to a dense J^T D J in its own test
    eye = torch.eye(H.size, dtype=torch.float64)
    return H(eye) + lam * eye


def test_a_full_batch_gives_the_dense_solve() -> None:
    model, train, queries = case()
    method = LiSSA(damping=0.5, depth=160, batch_size=N)
    g = gradients(model, queries)
    series = method.fitted_state(model, train, lay_out(model), 0)
    assert isinstance(series, Series)
    assert len(series.matrix.batches) == 1
    right = torch.linalg.solve(matrix(model, train, 0.5), g.T).T
    torch.testing.assert_close(series(g), right, rtol=1e-10, atol=1e-10 * float(right.abs().max()))
    scores = assay.attribute(model, train, queries, method).array
    expected = gradients(model, train) @ right.T / N
    np.testing.assert_allclose(scores, expected.numpy(), atol=1e-5 * float(expected.abs().max()))


def test_truncation_is_the_partial_sum() -> None:
    model, train, queries = case()
    g, A = gradients(model, queries), matrix(model, train, 0.2)
    series = LiSSA(damping=0.2, depth=3, batch_size=N, scaling=5.0).fitted_state(model, train, lay_out(model), 0)
    step = torch.eye(len(A), dtype=torch.float64) - A / 5.0
    right = sum((g @ torch.linalg.matrix_power(step, k) for k in range(4)), torch.zeros_like(g)) / 5.0
    torch.testing.assert_close(series(g), right)


def test_batches_average_out() -> None:
    """Batches are drawn independently, so the mean over series is the partial sum of the whole matrix: the error of 16
    series is less than half that of one.
    """
    model, train, queries = case()
    g, A = gradients(model, queries), matrix(model, train, 0.5)
    step = torch.eye(len(A), dtype=torch.float64) - A / 3.0
    right = sum((g @ torch.linalg.matrix_power(step, k) for k in range(16)), torch.zeros_like(g)) / 3.0
    made = [LiSSA(damping=0.5, depth=15, batch_size=6, scaling=3.0, repeats=k) for k in (1, 16)]
    errors = [
        float((method.fitted_state(model, train, lay_out(model), 0)(g) - right).norm() / right.norm())
        for method in made
    ]
    assert errors[1] < 0.05
    assert errors[1] < errors[0] / 2, errors


def test_divergence_raises() -> None:
    model, train, queries = case()
    largest = float(torch.linalg.eigvalsh(matrix(model, train, 0.2))[-1])
    below, above = 0.49 * largest, 0.51 * largest
    with pytest.raises(MethodError, match="so it must be above"):
        assay.attribute(model, train, queries, LiSSA(damping=0.2, scaling=below, depth=10))
    assay.attribute(model, train, queries, LiSSA(damping=0.2, scaling=above, depth=10, batch_size=N))
    series = LiSSA(damping=0.2, scaling=above, depth=200, batch_size=N).fitted_state(model, train, lay_out(model), 0)
    runaway = Series(series.matrix, series.method, below / 2)
    with pytest.raises(MethodError, match="diverged"):
        runaway(gradients(model, queries))
