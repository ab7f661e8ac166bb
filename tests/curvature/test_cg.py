"""Conjugate gradients against dense solves."""

import pytest
import torch
from torch import Tensor

from assay.curvature.cg import norm, solve
from assay.errors import MethodError


def problem(spread: float = 3.0, size: int = 40) -> tuple[Tensor, Tensor]:
    """A matrix with eigenvalues from 1 to 10^spread, and right-hand sides, of which one is zero."""
    Q = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))[0]
    A = Q @ torch.diag(torch.logspace(0, spread, size, dtype=torch.float64)) @ Q.T
    b = torch.randn(4, size, dtype=torch.float64) * torch.tensor([1.0, 1e-6, 0.0, 1e6]).double()[:, None]
    return (A + A.T) / 2, b


def test_convergence_is_the_dense_solve() -> None:
    A, b = problem()
    found = solve(lambda v: v @ A, b, tolerance=1e-12, iterations=400)
    right = torch.linalg.solve(A, b.T).T
    assert bool((norm(found.x - right) <= 1e-9 * norm(right)).all())
    assert bool((found.residuals <= 1e-12).all())
    assert int(found.iterations[2]) == 0


def test_the_a_norm_of_the_error_falls() -> None:
    A, b = problem()
    b = b[[0, 1, 3]]
    right = torch.linalg.solve(A, b.T).T
    errors = [solve(lambda v: v @ A, b, tolerance=0.0, iterations=k).x - right for k in range(1, 12)]
    lengths = torch.stack([((e @ A) * e).sum(1) for e in errors])
    assert bool((lengths[1:] < lengths[:-1]).all())


def test_each_right_hand_side_is_solved_as_if_alone() -> None:
    A, b = problem()
    together = solve(lambda v: v @ A, b, tolerance=1e-6, iterations=200)
    for k in range(len(b)):
        alone = solve(lambda v: v @ A, b[k : k + 1], tolerance=1e-6, iterations=200)
        assert int(alone.iterations[0]) == int(together.iterations[k])
        torch.testing.assert_close(alone.x[0], together.x[k])


def test_a_good_preconditioner_saves_iterations() -> None:
    A, b = problem(5.0)
    near = torch.linalg.inv(A + torch.eye(40).double() * 0.5)
    plain = solve(lambda v: v @ A, b, tolerance=1e-6, iterations=500)
    ready = solve(lambda v: v @ A, b, precondition=lambda r: r @ near, tolerance=1e-6, iterations=500)
    assert int(ready.iterations.max()) < int(plain.iterations.max()) / 3
    true = norm(b - ready.x @ A) / norm(b).clamp(min=1e-30)
    assert bool((true <= 1e-5).all())


def test_a_budget_ends_it_and_is_told() -> None:
    A, b = problem(5.0)
    found = solve(lambda v: v @ A, b, tolerance=1e-12, iterations=3)
    assert found.iterations.tolist() == [3, 3, 0, 3]
    true = norm(b - found.x @ A)[[0, 1, 3]] / norm(b)[[0, 1, 3]]
    torch.testing.assert_close(found.residuals[[0, 1, 3]], true)


def test_an_indefinite_matrix_is_refused() -> None:
    A, b = problem()
    with pytest.raises(MethodError, match="not positive definite"):
        solve(lambda v: v @ (A - 20 * torch.eye(40).double()), b, tolerance=1e-12, iterations=100)
