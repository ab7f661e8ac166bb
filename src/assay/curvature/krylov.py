"""Functions of a symmetric matrix, applied to vectors by products with it alone.

    f(H) b  ~  |b| V f(T) e_1,        H V = V T + rest,   V [params, m] orthonormal, T tridiagonal

the Lanczos approximation (Golub & Meurant 2010; Saad 1992 for the exponential), exact once m reaches the number of
distinct eigenvalues that b touches. One basis serves every f. Each b has a basis of its own; the products are made for
all together. Vectors are orthogonalised against the whole basis twice, since in finite precision the recurrence alone
loses orthogonality. Cost: m products, 2 m^2 inner products. Memory: q * m vectors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from assay.curvature.cg import Map, norm

Function = Callable[[Float64[Tensor, "..."]], Float64[Tensor, "..."]]
"""Of eigenvalues, one by one."""

BREAKDOWN = 1e-10
"""A new direction shorter than this share of the matrix seen so far is rounding: the space is complete."""


@dataclass(frozen=True)
class Krylov:
    """The basis of each right-hand side [q, m, params], its matrix T [q, m, m] in float64, and the lengths |b|."""

    basis: Float[Tensor, "q m params"]
    matrix: Float64[Tensor, "q m m"]
    length: Float64[Tensor, " q"]

    def apply(self, f: Function) -> Float[Tensor, "q params"]:
        """`f(H) b` for each row."""
        values, vectors = cast(tuple[Tensor, Tensor], cast(Any, torch.linalg).eigh(self.matrix))
        weights = torch.einsum("qkm,qm,qm->qk", vectors, f(values), vectors[:, 0]) * self.length[:, None]
        return torch.einsum("qk,qkp->qp", weights.to(self.basis), self.basis)

    @property
    def largest(self) -> Float64[Tensor, " q"]:
        """The largest Ritz value: a lower bound of the largest eigenvalue, and soon close to it."""
        return cast(Tensor, cast(Any, torch.linalg).eigvalsh(self.matrix))[:, -1]


def lanczos(product: Map, b: Float[Tensor, "q params"], steps: int) -> Krylov:
    """So many products with H, starting from each row of b. A row of zeros has the answer zero."""
    q, size = b.shape
    steps = min(steps, size)
    length = norm(b)
    basis = b.new_zeros(q, steps, size)
    matrix = torch.zeros(q, steps, steps, dtype=torch.float64, device=b.device)
    v = _scaled(b, length, length > 0)
    for k in range(steps):
        basis[:, k] = v
        w = product(v)
        matrix[:, k, k] = torch.einsum("qp,qp->q", w, v).double()
        if k + 1 == steps:
            break
        for _ in range(2):
            w = w - torch.einsum("qk,qkp->qp", torch.einsum("qkp,qp->qk", basis[:, : k + 1], w), basis[:, : k + 1])
        beta = norm(w)
        seen = matrix.abs().amax((1, 2))
        going = beta > BREAKDOWN * seen
        matrix[:, k, k + 1] = matrix[:, k + 1, k] = torch.where(going, beta, 0.0)
        v = _scaled(w, beta, going)
    return Krylov(basis, matrix, length)


def _scaled(w: Float[Tensor, "q params"], length: Tensor, kept: Tensor) -> Float[Tensor, "q params"]:
    """Unit vectors; zeros where nothing is left."""
    inverse = torch.where(kept, 1.0 / length.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
    return w * inverse.to(w)[:, None]
