"""Second moments of features and their damped inverses, dense: for compressed features of a few thousand numbers.

    M = (1/sum w) sum_i w_i phi_i phi_i^T,        psi -> (M + lam I)^-1 psi

Accumulated and inverted in float64: M squares the condition number of the features, and float32 loses it. Cost: N k^2
to accumulate, k^3 / 3 once, k^2 a query; 8 k^2 bytes.
"""

from collections.abc import Iterable
from typing import Any, Self, cast

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from assay.errors import MethodError

SINGULAR = 1e-12
"""Share of a diagonal entry that a pivot must exceed: below it is the rounding of features with 7 digits."""


class SecondMoment:
    """The running sum `sum_i w_i phi_i phi_i^T`, float64, on the CPU unless `device` says otherwise."""

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        self.sum: Float64[Tensor, "k k"] = torch.zeros(dim, dim, dtype=torch.float64, device=device)
        self.weight = 0.0

    @classmethod
    def of(cls, parts: Iterable[Float[Tensor, "n k"]]) -> Self:
        """Of all rows of all parts (at least one), each with weight 1."""
        moment: Self | None = None
        for phi in parts:
            moment = moment or cls(phi.shape[1], phi.device)
            moment.add(phi)
        if moment is None:
            raise MethodError("A second moment was asked of no features; at least one example was expected.")
        return moment

    def add(self, phi: Float[Tensor, "n k"], weight: Float[Tensor, " n"] | None = None) -> None:
        """Add rows, each with its weight (by default 1)."""
        phi = phi.double()
        self.sum += phi.T @ (phi if weight is None else phi * weight.double()[:, None])
        self.weight += float(len(phi)) if weight is None else float(weight.double().sum())

    @property
    def mean(self) -> Float64[Tensor, "k k"]:
        """`M`; raises MethodError if nothing was added."""
        if not self.weight > 0:
            raise MethodError("A second moment was asked of features whose weights add up to 0.")
        return self.sum / self.weight


def cholesky(moment: Float64[Tensor, "k k"], damping: float = 0.0) -> Float64[Tensor, "k k"] | None:
    """The lower factor of `M + lam I`; None if that is singular to the precision of the features."""
    damped = moment.clone()
    damped.diagonal().add_(damping)
    result: tuple[Tensor, Tensor] = cast(Any, torch.linalg).cholesky_ex(damped)
    factor, failed = result
    if int(failed) or not bool((factor.diagonal().square() > SINGULAR * damped.diagonal()).all()):
        return None
    return factor


def factored(moment: Float64[Tensor, "k k"], damping: float) -> Float64[Tensor, "k k"]:
    """The same; raises MethodError where it is singular, with a damping that would do."""
    factor = cholesky(moment, damping)
    if factor is None:
        ridge = 1e-3 * float(moment.diagonal().mean())
        raise MethodError(
            f"The second moment of features in {len(moment)} dimensions is singular under damping {damping:.2g}. Give "
            f"more damping (for example {ridge:.2g}), fewer dimensions, or more examples."
        )
    return factor


HALVED = 256
"""Columns below which a product is taken whole."""


def gram(x: Float[Tensor, "n k"]) -> Float[Tensor, "k k"]:
    """`x^T x` in the precision of x, of which the entries under the diagonal are not computed again, block by block."""
    if x.shape[1] < HALVED:
        return x.T @ x
    half = x.shape[1] // 2
    first, second, across = gram(x[:, :half]), gram(x[:, half:]), x[:, :half].T @ x[:, half:]
    return torch.cat([torch.cat([first, across], 1), torch.cat([across.T, second], 1)])


def eigh(moment: Float64[Tensor, "k k"]) -> tuple[Float64[Tensor, " k"], Float64[Tensor, "k k"]]:
    """Eigenvalues, ascending, and eigenvectors as columns, of a symmetric matrix."""
    return cast(tuple[Tensor, Tensor], cast(Any, torch.linalg).eigh(moment))


def solve(factor: Float64[Tensor, "k k"], psi: Float[Tensor, "q k"]) -> Float[Tensor, "q k"]:
    """`(M + lam I)^-1 psi` by the factor of `cholesky`, in the dtype of psi."""
    return torch.cholesky_solve(psi.to(factor.device).double().T, factor).T.to(psi)
