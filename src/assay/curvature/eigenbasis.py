"""Mean squares of gradients in a basis of Kronecker form, the corrected eigenvalues of EK-FAC.

    Lam = mean over examples of (Q_S^T G Q_A)^2,        entry by entry

(George et al. 2018, 1806.03884, eq. 8). `Lam` is the diagonal of `(Q_S kron Q_A)^T F (Q_S kron Q_A)`. Without bases it
is the mean squared gradient. Each side is rotated at its positions or in the formed gradient, whichever takes fewer
operations: `time * n^2` against `rows * cols * n`; layers with the same input rotate it once. Where a layer is applied
at one position, squares of the product are products of squares and no gradient is formed.
"""

import weakref
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from assay.curvature.sweep import Statistic
from assay.gradients.blocks import Block
from assay.gradients.features import EXAMPLES, NUMBERS
from assay.gradients.rules import OneHot, Side
from assay.gradients.sketch import gather

Bases = tuple[Tensor | None, Tensor | None]
"""Eigenvectors as columns of the left and of the right side; None for the axes themselves."""


class SquaresInBasis(Statistic):
    """The sum of squares of every coordinate, in the bases given for each block."""

    linear = False

    def __init__(self, blocks: Sequence[Block], bases: Sequence[Bases], device: torch.device) -> None:
        super().__init__(blocks)
        self.bases = tuple(bases)
        self.most = min(EXAMPLES, max(1, NUMBERS // max(block.size for block in blocks)))
        self._users = Counter(id(right) for _, right in bases if right is not None)
        self.sums = [torch.zeros(b.rows, b.cols, dtype=torch.float64, device=device) for b in blocks]
        self._pending: list[tuple[int, Tensor]] = []
        self._last: tuple[weakref.ref[Tensor], int, Tensor] | None = None

    def begin(self, real: Bool[Tensor, "batch time"] | None) -> None:
        """Forget what an unfinished pass gave."""
        self._pending, self._last = [], None

    def left(self, block: int, side: Side) -> Side:
        """`Q_S^T d_t`, where that is cheaper at the positions."""
        basis = self.bases[block][0]
        return side if basis is None or not self._early(block, 0, _time(side)) else _rotate(basis, side)

    def right(self, block: int, side: Side) -> Side:
        """`Q_A^T a_t`, likewise; the last result is kept for a layer with the same input and basis."""
        basis = self.bases[block][1]
        if basis is None or not self._early(block, 1, _time(side)):
            return side
        if not isinstance(side, Tensor):
            return _rotate(basis, side)
        if self._last is None or self._last[0]() is not side or self._last[1] != id(basis):
            self._last = (weakref.ref(side), id(basis), _rotate(basis, side))
        return self._last[2]

    def pair(self, block: int, left: Side, right: Side, dtype: torch.dtype) -> Float[Tensor, "batch 1"] | None:
        """One position: squares of the product are products of squares."""
        if isinstance(left, OneHot) or isinstance(right, OneHot) or left.shape[1] != 1:
            return None
        squares = [side[:, 0].to(dtype).square() for side in (left, right)]
        self._pending.append((block, squares[0].T @ squares[1]))
        return squares[0].sum(1, keepdim=True) * squares[1].sum(1, keepdim=True)

    def formed(self, block: int, gradient: Float[Tensor, "batch p q"], time: int) -> Float[Tensor, "batch p q"]:
        """Rotate the sides that are not yet."""
        left, right = self.bases[block]
        if left is not None and not self._early(block, 0, time):
            gradient = left.to(gradient.dtype).T @ gradient
        if right is not None and not self._early(block, 1, time):
            gradient = gradient @ right.to(gradient.dtype)
        return gradient

    def emit(self, block: int, gradient: Float[Tensor, "batch p q"]) -> Float[Tensor, "batch 1"]:
        """Add the squares; the feature is their sum."""
        squares = gradient.square()
        self._pending.append((block, squares.sum(0)))
        return squares.flatten(1).sum(1, keepdim=True)

    def whole(self, block: int, gradient: Float[Tensor, "batch rows cols"]) -> Float[Tensor, "batch 1"]:
        """Rotate both sides, then the same."""
        left, right = self.bases[block]
        gradient = gradient if left is None else left.to(gradient.dtype).T @ gradient
        return self.emit(block, gradient if right is None else gradient @ right.to(gradient.dtype))

    def commit(self) -> None:
        """Add to the totals."""
        for block, squares in self._pending:
            self.sums[block] += squares
        self._pending = []

    def means(self) -> list[Tensor]:
        """`Lam` of every block, float64 [rows, cols]."""
        return [total / max(self.examples, 1) for total in self.sums]

    def state(self) -> dict[str, Tensor]:
        """The sums by block."""
        return {str(block): total for block, total in enumerate(self.sums)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up these totals."""
        self.sums = [state[str(block)].to(total) for block, total in enumerate(self.sums)]

    def _early(self, block: int, side: int, time: int) -> bool:
        """Whether a side (0 left, 1 right) is rotated at its `time` positions rather than in the formed gradient.

        A one-position layer always: its gradient is not formed.
        """
        across = self.blocks[block].cols if side == 0 else self.blocks[block].rows
        shared = 1 if side == 0 else self._users[id(self.bases[block][1])]
        return time == 1 or time < across * shared


def _time(side: Side) -> int:
    return side.index.shape[-1] if isinstance(side, OneHot) else side.shape[-2]


def _rotate(basis: Tensor, side: Side) -> Tensor:
    return (
        gather(basis.float() if basis.dtype != torch.float64 else basis, side)
        if isinstance(side, OneHot)
        else (side.to(basis.dtype) @ basis)
    )
