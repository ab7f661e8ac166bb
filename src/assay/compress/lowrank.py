"""Low-rank factors of a matrix, of the smallest rank found whose relative error is small enough.

    V ~ L R,      |V - L R| <= error |V|      (Frobenius)

Small matrices and small errors by a singular value decomposition; others by a randomised range of doubling rank with
one power iteration (Halko, Martinsson & Tropp 2011, 0909.4061, algorithm 4.4), whose error is computed and not guessed:
`|V - Q Q^T V|^2 = |V|^2 - |Q^T V|^2`. Cost: 8 rows cols rank.
"""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

SMALL = 64
"""Shorter side up to which a singular value decomposition is cheap."""
FINE = 1e-2
"""Relative error below which the difference of the two squares has too few digits in float32."""


def low_rank(
    V: Float[Tensor, "rows cols"], error: float, generator: torch.Generator
) -> tuple[Float[Tensor, "rows rank"], Float[Tensor, "rank cols"]]:
    """`L` [rows, rank], with orthogonal columns, and `R` [rank, cols]. An error of 0 keeps every direction."""
    size, shorter, rank = float(V.double().square().sum()) ** 0.5, min(V.shape), 16
    while shorter > SMALL and error >= FINE and 2 * rank <= shorter:
        basis = _range(V, rank, generator)
        inside = basis.T @ V
        lost = max(size**2 - float(inside.double().square().sum()), 0.0)
        if lost <= (error * size) ** 2:
            left, right = _truncated(inside, (error * size) ** 2 - lost)
            return basis @ left, right
        rank *= 2
    return _truncated(V, (error * size) ** 2)


def _range(V: Float[Tensor, "rows cols"], rank: int, generator: torch.Generator) -> Float[Tensor, "rows rank"]:
    """Orthogonal columns that span nearly the leading directions."""
    start = torch.randn(V.shape[1], rank, generator=generator).to(V)
    return _orthogonal(V @ _orthogonal(V.T @ _orthogonal(V @ start)))


def _orthogonal(columns: Float[Tensor, "n rank"]) -> Float[Tensor, "n rank"]:
    return cast(tuple[Tensor, Tensor], cast(Any, torch.linalg).qr(columns))[0]


def _truncated(V: Float[Tensor, "rows cols"], allowed: float) -> tuple[Tensor, Tensor]:
    """The fewest singular directions that leave at most `allowed` of the squares out; at least one."""
    U, s, Vh = cast(tuple[Tensor, Tensor, Tensor], cast(Any, torch.linalg).svd(V, full_matrices=False))
    left_out = s.double().square().flip(0).cumsum(0).flip(0)  # what is lost if the rank is 0, 1, ...
    rank = max(1, int((left_out > allowed).sum()))
    return U[:, :rank].contiguous(), s[:rank, None] * Vh[:rank]
