"""Conjugate gradients for many right-hand sides together, preconditioned.

    x_q = A^-1 b_q,     A symmetric and positive definite, M^-1 roughly A^-1

Each right-hand side has its own step sizes (so this is q independent runs of the method, whose products with A share
their work), and leaves the block when it is done. Hestenes & Stiefel 1952; preconditioned as in Nocedal & Wright 2006,
algorithm 5.3. Memory: 4 vectors a right-hand side; inner products in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from assay import progress
from assay.errors import MethodError

Map = Callable[[Float[Tensor, "q params"]], Float[Tensor, "q params"]]


@dataclass(frozen=True)
class Solution:
    """`x` with, for each right-hand side, the iterations taken and the final `|b - A x| / |b|` as the method tracks it."""

    x: Float[Tensor, "q params"]
    iterations: Int[Tensor, " q"]
    residuals: Float64[Tensor, " q"]


def identity(r: Float[Tensor, "q params"]) -> Float[Tensor, "q params"]:
    """No preconditioner."""
    return r


def solve(
    apply: Map,
    b: Float[Tensor, "q params"],
    *,
    precondition: Map = identity,
    tolerance: float = 1e-3,
    iterations: int = 50,
) -> Solution:
    """Solve `A x = b` for each row of b, until `|b - A x| <= tolerance |b|` or so many iterations.

    Raises MethodError if a search direction has `p^T A p <= 0` (or NaN): A is then not positive definite.
    """
    size = norm(b)
    x = torch.zeros_like(b)
    taken, residual = torch.zeros(len(b), dtype=torch.long), torch.where(size > 0, 1.0, 0.0).double().cpu()
    rows = (size > 0).nonzero().squeeze(1)  # of the right-hand sides that still move
    r = b[rows].clone()
    z = precondition(r)
    p, rz = z.clone(), dot(r, z)
    with progress.task("conjugate gradients", iterations) as advance:
        for _ in range(iterations):
            if not len(rows):
                break
            Ap = apply(p)
            curvature = dot(p, Ap)
            _check_positive(curvature)
            alpha = (rz / curvature).to(b.dtype)[:, None]
            x[rows] += alpha * p
            r -= alpha * Ap
            left = norm(r) / size[rows]
            residual[rows.cpu()], taken[rows.cpu()] = left.cpu(), taken[rows.cpu()] + 1
            going = left > tolerance
            if not bool(going.all()):
                rows, r, p, rz = rows[going], r[going], p[going], rz[going]
                if not len(rows):
                    break
            z = precondition(r)
            before, rz = rz, dot(r, z)
            p = z + (rz / before).to(b.dtype)[:, None] * p
            advance()
    return Solution(x, taken, residual)


def dot(a: Float[Tensor, "q params"], b: Float[Tensor, "q params"]) -> Float64[Tensor, " q"]:
    """Inner product of each pair of rows, accumulated in float64 one row at a time."""
    return (
        torch.stack([u.double() @ v.double() for u, v in zip(a, b, strict=True)]) if len(a) else a.new_zeros(0).double()
    )


def norm(a: Float[Tensor, "q params"]) -> Float64[Tensor, " q"]:
    """Length of each row."""
    return dot(a, a).sqrt()


def _check_positive(curvature: Float64[Tensor, " q"]) -> None:
    if not bool((curvature > 0).all()):
        worst = float(curvature.min())
        raise MethodError(
            f"Conjugate gradients met a direction p with p^T A p = {worst:.3g}, where a positive number was expected: the "
            "curvature matrix is not positive definite (damping of 0, or numbers that are not finite). Give a larger damping."
        )
