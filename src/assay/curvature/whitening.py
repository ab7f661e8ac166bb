"""Whitening of features: `phi -> phi W` with `W W^T = (M + lam I)^-1`, so that their second moment becomes the identity.

Any such W gives the same inner products and cosines; the symmetric root stays closest to the features as they were
(ZCA), the Cholesky factor is cheaper. Float64 throughout; a float32 root of an ill-conditioned M is noise.
"""

from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from assay.curvature.gram import SINGULAR, eigh, factored
from assay.errors import MethodError


@dataclass(frozen=True, eq=False)
class Whitening:
    """A fitted `W` [k, k], applied to rows."""

    matrix: Float64[Tensor, "k k"]

    @classmethod
    def symmetric(cls, moment: Float64[Tensor, "k k"], damping: float = 0.0) -> Self:
        """`W = (M + lam I)^-1/2`. Raises MethodError where that is singular."""
        return cls(power(moment, -0.5, damping))

    @classmethod
    def triangular(cls, moment: Float64[Tensor, "k k"], damping: float = 0.0) -> Self:
        """`W = L^-T` of `M + lam I = L L^T`. Raises MethodError where that is singular."""
        factor = factored(moment, damping)
        eye = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
        inverse = cast(Tensor, cast(Any, torch.linalg).solve_triangular(factor, eye, upper=False))
        return cls(inverse.T.contiguous())

    def __call__(self, phi: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """`phi W`, in the dtype of phi."""
        return (phi.to(self.matrix.device).double() @ self.matrix).to(phi)


def power(moment: Float64[Tensor, "k k"], exponent: float, damping: float = 0.0) -> Float64[Tensor, "k k"]:
    """`(M + lam I)^exponent`, symmetric, by an eigendecomposition. Raises MethodError for a negative exponent of a
    matrix that is singular to the precision of the features.
    """
    values, vectors = eigh(moment)
    values = values + damping
    if exponent < 0 and not bool(values[0] > SINGULAR * values[-1]):
        ridge = 1e-3 * float(moment.diagonal().mean())
        raise MethodError(
            f"The second moment of features in {len(moment)} dimensions is singular under damping {damping:.2g}. Give "
            f"more damping (for example {ridge:.2g}), fewer dimensions, or more examples."
        )
    return (vectors * values.clamp(min=0).pow(exponent)) @ vectors.T
