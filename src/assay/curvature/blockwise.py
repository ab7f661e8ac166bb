"""Second moments of features block by block, and the inverse of their damped block diagonal.

    R_l = sum_i w_i phi_il phi_il^T,        psi_l -> (R_l + lam_l I)^-1 psi_l,        lam_l = damping * tr(R_l) / k_l

A block of k numbers with fewer than k rows is kept as its rows X (R = X^T X) and inverted through them:

    (X^T X + lam I)^-1 = (I - X^T (X X^T + lam I)^-1 X) / lam

so the cost is N k min(N, k) to accumulate and min(N, k)^3 / 3 once, in float64; memory 8 k min(N, k) bytes, twice with the
factors. `lam_l` belongs to its block and is computed once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from assay.curvature.gram import factored, solve
from assay.errors import MethodError

MOST_NUMBERS = 2**30
"""Numbers in all blocks' moments at most (8 GiB)."""


@dataclass(frozen=True, eq=False)
class BlockMoment:
    """One block's R [k, k]: as it is, or as the rows X [n, k], n < k, of `R = X^T X`."""

    matrix: Float64[Tensor, "m k"]
    dim: int

    @property
    def by_rows(self) -> bool:
        """Whether `matrix` holds rows."""
        return len(self.matrix) < self.dim

    @property
    def mean_eigenvalue(self) -> float:
        """`tr(R) / k`."""
        trace = self.matrix.square().sum() if self.by_rows else self.matrix.diagonal().sum()
        return float(trace) / self.dim

    @property
    def dense(self) -> Float64[Tensor, "k k"]:
        """R."""
        return self.matrix.T @ self.matrix if self.by_rows else self.matrix

    def eigenvalues(self) -> Float64[Tensor, " m"]:
        """Those that can be other than 0, in no order."""
        small = self.matrix @ self.matrix.T if self.by_rows else self.matrix
        values: Tensor = cast(Any, torch.linalg).eigvalsh(small)
        return values.clamp(min=0)

    def mixed(self, other: "BlockMoment", share: float) -> "BlockMoment":
        """`(1 - share) self + share other`."""
        if self.by_rows and other.by_rows and len(self.matrix) + len(other.matrix) < self.dim:
            parts = [(1 - share) ** 0.5 * self.matrix, share**0.5 * other.matrix]
            return BlockMoment(torch.cat(parts), self.dim)
        return BlockMoment((1 - share) * self.dense + share * other.dense, self.dim)

    def inverse(self, lam: float) -> "BlockInverse":
        """Of `R + lam I`, lam > 0; of a block without any gradient 0, not infinity."""
        if not self.mean_eigenvalue > 0:
            return BlockInverse(None, None, lam)
        if self.by_rows:
            return BlockInverse(factored(self.matrix @ self.matrix.T, lam), self.matrix, lam)
        return BlockInverse(factored(self.matrix, lam), None, lam)


@dataclass(frozen=True, eq=False)
class BlockInverse:
    """`(R + lam I)^-1` by the Cholesky factor of R + lam I, or with `rows` X of X X^T + lam I."""

    factor: Float64[Tensor, "m m"] | None
    rows: Float64[Tensor, "m k"] | None
    lam: float

    def __call__(self, psi: Float[Tensor, "q k"]) -> Float64[Tensor, "q k"]:
        """Applied to rows, in float64."""
        psi = psi.double()
        if self.factor is None:
            return torch.zeros_like(psi)
        if self.rows is None:
            return solve(self.factor, psi)
        return (psi - solve(self.factor, psi @ self.rows.T) @ self.rows) / self.lam


@dataclass(frozen=True, eq=False)
class BlockDiagonal:
    """The inverse over whole features: block l acts on the numbers of slot l."""

    slots: tuple[slice, ...]
    inverses: tuple[BlockInverse, ...]

    @staticmethod
    def of(moments: Sequence[BlockMoment], slots: Sequence[slice], damping: float) -> "BlockDiagonal":
        """Each block damped by `damping` times its own mean eigenvalue."""
        return BlockDiagonal(tuple(slots), tuple(m.inverse(damping * m.mean_eigenvalue) for m in moments))

    def __call__(self, psi: Float[Tensor, "q k"]) -> Float[Tensor, "q k"]:
        """`(R + lam I)^-1 psi`, in the dtype of psi."""
        turned = torch.zeros_like(psi)
        for slot, inverse in zip(self.slots, self.inverses, strict=True):
            turned[:, slot] = inverse(psi[:, slot]).to(psi)
        return turned

    def quadratic(self, phi: Float[Tensor, "n k"]) -> Float64[Tensor, " n"]:
        """`phi^T (R + lam I)^-1 phi` of each row."""
        total = torch.zeros(len(phi), dtype=torch.float64)
        for slot, inverse in zip(self.slots, self.inverses, strict=True):
            part = phi[:, slot].double()
            total += (part * inverse(part)).sum(1)
        return total.clamp(min=0)


def second_moments(
    parts: Iterable[Float[Tensor, "n k"]], slots: Sequence[slice], count: int
) -> tuple[BlockMoment, ...]:
    """The mean of `phi phi^T` of each block over all `count` rows of all parts.

    Raises MethodError if that needs more memory than 8 GiB.
    """
    sizes = [slot.stop - slot.start for slot in slots]
    check_size(sizes, count)
    totals = [torch.zeros(min(count, size), size, dtype=torch.float64) for size in sizes]
    start = 0
    for part in parts:
        for slot, size, total in zip(slots, sizes, totals, strict=True):
            phi = part[:, slot].double()
            if count < size:
                total[start : start + len(phi)] = phi
            else:
                total.addmm_(phi.T, phi)
        start += len(part)
    return tuple(
        BlockMoment(total.div_(count**0.5 if count < size else count), size)
        for size, total in zip(sizes, totals, strict=True)
    )


def check_size(sizes: Sequence[int], count: int) -> None:
    """Raise MethodError if the moments of blocks of these sizes do not fit."""
    numbers = sum(size * min(count, size) for size in sizes)
    if numbers > MOST_NUMBERS:
        raise MethodError(
            f"Second moments of {len(sizes)} blocks, the largest of {max(sizes):,} numbers a feature, take "
            f"{numbers * 8 / 2**30:.0f} GiB; at most {MOST_NUMBERS * 8 / 2**30:.0f} GiB are used. Compress more "
            "(compression='eigen:32' or 'factored:16'), or choose modules."
        )


def distinct(slots: Sequence[slice]) -> tuple[slice, ...]:
    """Each slot once: blocks that share one are one."""
    return tuple(slice(a, b) for a, b in dict.fromkeys((cast(int, s.start), cast(int, s.stop)) for s in slots))
