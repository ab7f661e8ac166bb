"""EK-FAC + CG against dense solves of the damped Gauss-Newton matrix."""

import numpy as np
import torch
from tests.support import batch_of, shaken
from torch import Tensor, nn

import assay
from assay.curvature.cg import solve
from assay.examples import Examples
from assay.gradients.blocks import lay_out, to_vectors
from assay.gradients.functional import dense_gradients
from assay.methods import EKFACCG, GradDot
from assay.methods.gradient.ekfac_cg import Preconditioned
from assay.models import Model
from assay.tasks import Classify, Loss

N, Q = 100, 3


def case() -> tuple[Model, Examples, Examples]:
    torch.manual_seed(0)
    x = torch.randn(N + Q, 6, dtype=torch.float64)
    y = torch.randint(0, 3, (N + Q,))
    model = Model(shaken(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()), Classify())
    return model, assay.read((x[:N], y[:N])), assay.read((x[N:], y[N:]))


def gradients(model: Model, rows: Examples) -> Tensor:
    return to_vectors(lay_out(model).blocks, dense_gradients(model, batch_of(model, rows), Loss()))


def fitted(model: Model, train: Examples, method: EKFACCG) -> tuple[Preconditioned, Tensor]:
    """The solver, and its matrix (held to J^T D J in a test of its own) with the damping on the diagonal, dense."""
    solver = method.fitted_state(model, train, lay_out(model), 0)
    matrix = solver.matrix(torch.eye(solver.matrix.size, dtype=torch.float64))
    matrix.diagonal().add_(solver.damping)
    return solver, matrix


def test_convergence_is_the_dense_solve() -> None:
    model, train, queries = case()
    method = EKFACCG(tolerance=1e-12, iterations=200)
    solver, A = fitted(model, train, method)
    g = gradients(model, queries)
    right = torch.linalg.solve(A, g.T).T
    assert float((solver(g) - right).norm() / right.norm()) < 1e-8
    scores = assay.attribute(model, train, queries, method).array
    expected = gradients(model, train) @ right.T / N
    np.testing.assert_allclose(scores, expected.numpy(), atol=1e-5 * float(expected.abs().max()))


def test_large_damping_is_graddot_over_lam() -> None:
    """One layer, so that there is one lam."""
    torch.manual_seed(0)
    x, y = torch.randn(N + Q, 3, dtype=torch.float64), torch.randint(0, 3, (N + Q,))
    model = Model(shaken(nn.Linear(3, 3).double()), Classify())
    train, queries = assay.read((x[:N], y[:N])), assay.read((x[N:], y[N:]))
    lam = 1e5
    scores = assay.attribute(model, train, queries, EKFACCG(damping=1e5)).array
    dot = assay.attribute(model, train, queries, GradDot()).array
    np.testing.assert_allclose(scores * lam * N, dot, atol=1e-4 * np.abs(dot).max())


def test_the_preconditioner_saves_iterations() -> None:
    """At the default tolerance a fifth at least, on inputs whose scales differ thirtyfold."""
    torch.manual_seed(0)
    n = 400
    x = torch.randn(n + Q, 6, dtype=torch.float64) * torch.logspace(0, 1.5, 6).double()
    y = torch.randint(0, 3, (n + Q,))
    net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    model = Model(shaken(net, 0.1), Classify())
    solver, A = fitted(model, assay.read((x[:n], y[:n])), EKFACCG(damping=0.01))
    g = gradients(model, assay.read((x[n:], y[n:])))
    plain = solve(lambda v: v @ A, g, iterations=500)
    ready = solve(lambda v: v @ A, g, precondition=solver.near, iterations=500)
    assert int(ready.iterations.max()) < 0.8 * int(plain.iterations.max()), (plain.iterations, ready.iterations)


def test_what_was_not_solved_is_told() -> None:
    model, train, queries = case()
    (note,) = assay.attribute(model, train, queries, EKFACCG(tolerance=1e-9, iterations=2)).provenance.notes
    assert note.startswith("CG took 2 iterations at most, and leaves a relative residual of at most")
    assert note.endswith("3 queries are above the tolerance.")
