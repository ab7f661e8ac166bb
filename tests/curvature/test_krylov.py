"""Lanczos functions of a matrix against dense ones."""

import torch
from torch import Tensor

from assay.curvature.krylov import lanczos


def problem(size: int = 30) -> tuple[Tensor, Tensor]:
    """Positive semidefinite of rank 20 with a wide spectrum; right-hand sides of any size, one of them zero."""
    Q = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))[0]
    values = torch.cat([torch.zeros(10).double(), torch.logspace(-3, 2, 20).double()])
    b = torch.randn(4, size, dtype=torch.float64) * torch.tensor([1.0, 1e-5, 0.0, 1e5]).double()[:, None]
    return Q @ torch.diag(values) @ Q.T, b


def test_with_enough_steps_every_function_is_exact() -> None:
    H, b = problem()
    space = lanczos(lambda v: v @ H, b, 40)  # more than there are dimensions
    right = b @ torch.linalg.matrix_exp(-0.3 * H)
    scale = b.norm(dim=1, keepdim=True).clamp(min=1e-300)
    assert float(((space.apply(lambda s: torch.exp(-0.3 * s)) - right) / scale).abs().max()) < 1e-9
    inverse = torch.linalg.solve(H + 0.1 * torch.eye(30).double(), b.T).T
    assert float(((space.apply(lambda s: 1 / (s + 0.1)) - inverse) / scale).abs().max()) < 1e-8
    assert bool((space.apply(torch.exp)[2] == 0).all())
    torch.testing.assert_close(space.largest[[0, 1, 3]], torch.full((3,), 100.0).double(), rtol=1e-8, atol=0)


def test_the_error_falls_with_the_steps() -> None:
    H, b = problem()
    right = b @ torch.linalg.matrix_exp(-0.3 * H)
    errors = [
        float((lanczos(lambda v: v @ H, b, m).apply(lambda s: torch.exp(-0.3 * s)) - right)[0].norm())
        for m in (2, 6, 12)
    ]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


def test_a_space_that_is_complete_early_is_enough() -> None:
    """Two distinct eigenvalues: two steps do, and further ones add nothing."""
    H = torch.diag(torch.tensor([1.0] * 5 + [4.0] * 5).double())
    b = torch.randn(2, 10, dtype=torch.float64)
    for steps in (2, 7):
        torch.testing.assert_close(lanczos(lambda v: v @ H, b, steps).apply(torch.sqrt), b @ H.sqrt())


def test_each_right_hand_side_is_as_if_alone() -> None:
    H, b = problem()
    together = lanczos(lambda v: v @ H, b, 6).apply(torch.exp)
    for k in (0, 1, 3):
        torch.testing.assert_close(lanczos(lambda v: v @ H, b[k : k + 1], 6).apply(torch.exp)[0], together[k])
