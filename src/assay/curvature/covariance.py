"""Second moments of the two sides of every block's gradient, the factors of K-FAC.

    A = mean over positions of a a^T,     S = mean over positions of d d^T,     G = sum_t d_t a_t^T

over all examples and the positions that are no padding. A tied weight's sites, and the steps of a layer that runs
several times, are further positions of the same block (the "expand" setting of Eschenhagen et al. 2023, 2311.00636).
Cost: tokens x (rows^2 + cols^2) a block; layers with the same input (q, k, v) multiply it once.
"""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from assay.curvature.gram import eigh, gram
from assay.curvature.sweep import Statistic
from assay.gradients.blocks import Block
from assay.gradients.rules import OneHot, Side

WIDEST = 8192
"""Numbers in a side above which only the diagonal of its moment is kept (a vocabulary), and its basis is as it was."""


class Moment:
    """The running sum of `x x^T` over rows x: a diagonal (one-hot rows, wide sides) and, if needed, a dense part."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.diagonal: Float64[Tensor, " n"] = torch.zeros(size, dtype=torch.float64, device=device)
        self.matrix: Float64[Tensor, "n n"] | None = None
        self.count = 0.0

    def add(self, product: Float[Tensor, "n *n"], count: float) -> None:
        """A sum of `x x^T`, or its diagonal, over `count` rows."""
        if product.ndim == 1:
            self.diagonal += product
        elif self.matrix is None:
            self.matrix = product.to(torch.float64, copy=True)  # several blocks may be given the same product
        else:
            self.matrix += product
        self.count += count

    def spectrum(self) -> tuple[Float64[Tensor, " n"], Float64[Tensor, "n n"] | None]:
        """Eigenvalues of the mean, and eigenvectors as columns; None for the axes themselves."""
        rows = max(self.count, 1.0)
        if self.matrix is None:
            return self.diagonal / rows, None
        values, vectors = eigh((self.matrix + self.diagonal.diag()) / rows)
        return values.clamp(min=0), vectors


@dataclass(frozen=True)
class Factor:
    """One side of a block: eigenvalues of its mean second moment, ascending where there is a basis."""

    values: Float64[Tensor, " n"]
    basis: Float64[Tensor, "n n"] | None


@dataclass(frozen=True)
class Factors:
    """Both sides of a block, and the positions an example (T)."""

    left: Factor
    right: Factor
    positions: float


class Covariances(Statistic):
    """The moments of both sides of all blocks; of blocks without sides (norms, slow ones) the mean squared gradient."""

    linear, additive = False, True

    def __init__(self, blocks: Sequence[Block], device: torch.device) -> None:
        super().__init__(blocks)
        self.device = device
        self._moments: dict[tuple[str, int], Moment] = {}
        self._squares: dict[int, Float64[Tensor, "rows cols"]] = {}
        self._pending: list[tuple[tuple[str, int], Tensor, float]] = []
        self._real: Bool[Tensor, "batch time"] | None = None
        self._last: tuple[weakref.ref[Tensor], Tensor, float] | None = None

    def begin(self, real: Bool[Tensor, "batch time"] | None) -> None:
        """Forget what an unfinished pass gave."""
        self._real, self._last, self._pending = real, None, []

    def pair(self, block: int, left: Side, right: Side, dtype: torch.dtype) -> Float[Tensor, "batch 1"]:
        """Add the moments of both sides; the feature is the sum of all their entries."""
        if isinstance(left, OneHot) or isinstance(right, OneHot):
            return self._with_one_hot(block, left, right, dtype)
        # gradients at padded positions are zero; inputs are not. Which side is the input does not matter to the sums.
        self._add("right", block, *self._product(right, dtype))
        self._add("left", block, *self._square(left.to(dtype), self._keep(left)))
        return _total(left, dtype) + _total(right, dtype)

    def tokens(
        self,
        block: int,
        left: Float[Tensor, "tokens p"],
        right: Float[Tensor, "tokens q"],
        example: Int[Tensor, " tokens"],
        batch: int,
    ) -> Float[Tensor, "batch 1"]:
        """The same for positions in one list, all of them real."""
        dtype = torch.float64 if left.dtype == torch.float64 else torch.float32
        left, right = left.to(dtype), right.to(dtype)
        self._add("right", block, *self._square(right, None))
        self._add("left", block, *self._square(left, None))
        sums = torch.zeros(batch, dtype=dtype, device=left.device)
        return sums.index_add_(0, example, left.sum(1) + right.sum(1))[:, None]

    def emit(self, block: int, gradient: Float[Tensor, "batch p q"]) -> Float[Tensor, "batch 1"]:
        """Add the squares of a gradient without sides; the feature is their sum."""
        squares = gradient.square()
        self._pending.append((("squares", block), squares.sum(0), 0.0))
        return squares.flatten(1).sum(1, keepdim=True)

    def whole(self, block: int, gradient: Float[Tensor, "batch rows cols"]) -> Float[Tensor, "batch 1"]:
        """The same."""
        return self.emit(block, gradient)

    def commit(self) -> None:
        """Add to the totals."""
        for (side, block), product, count in self._pending:
            if side == "squares":
                self._squares[block] = self._squares.get(block, 0.0) + product.double()
            else:
                self._moment(side, block).add(product, count)
        self._pending = []

    def factors(self) -> list[Factors | None]:
        """Those of each block; None without sides. Equal moments (of shared inputs) share one basis."""
        spectra: dict[str, list[tuple[Moment, Factor]]] = {"left": [], "right": []}
        found: list[Factors | None] = []
        for block in range(len(self.blocks)):
            if ("left", block) not in self._moments:
                found.append(None)
                continue
            left, right = (_spectrum(self._moments[side, block], spectra[side]) for side in ("left", "right"))
            found.append(Factors(left, right, self._moments["right", block].count / max(self.examples, 1)))
        return found

    def mean_squares(self, block: int) -> Float64[Tensor, "rows cols"]:
        """Of a block without sides; zeros if it never had a gradient."""
        size = (self.blocks[block].rows, self.blocks[block].cols)
        none = torch.zeros(size, dtype=torch.float64, device=self.device)
        return self._squares.get(block, none) / max(self.examples, 1)

    def state(self) -> dict[str, Tensor]:
        """Diagonals, dense parts and counts."""
        state: dict[str, Tensor] = {f"squares.{block}.sum": total for block, total in self._squares.items()}
        for (side, block), moment in self._moments.items():
            state[f"{side}.{block}.diagonal"] = moment.diagonal
            state[f"{side}.{block}.count"] = torch.tensor(moment.count, dtype=torch.float64)
            if moment.matrix is not None:
                state[f"{side}.{block}.matrix"] = moment.matrix
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up these totals."""
        for name, tensor in state.items():
            side, block, part = name.split(".")
            if side == "squares":
                self._squares[int(block)] = tensor.to(self.device)
            else:
                value = float(tensor) if part == "count" else tensor.to(self.device)
                setattr(self._moment(side, int(block)), part, value)

    def _moment(self, side: str, block: int) -> Moment:
        if (side, block) not in self._moments:
            size = self.blocks[block].rows if side == "left" else self.blocks[block].cols
            self._moments[side, block] = Moment(size, self.device)
        return self._moments[side, block]

    def _add(self, side: str, block: int, product: Tensor, count: float) -> None:
        self._pending.append(((side, block), product, count))

    def _product(self, side: Tensor, dtype: torch.dtype) -> tuple[Tensor, float]:
        """The sum of `x x^T` over real positions; once for layers that are given the same side one after another."""
        if self._last is None or self._last[0]() is not side:
            self._last = (weakref.ref(side), *self._square(side.to(dtype), self._keep(side)))
        return self._last[1:]

    def _square(self, side: Tensor, keep: Tensor | None) -> tuple[Tensor, float]:
        x = side.reshape(-1, side.shape[-1])
        x = x if keep is None else x[keep]
        return (x.square().sum(0) if x.shape[1] > WIDEST else gram(x)), float(len(x))

    def _keep(self, side: Tensor) -> Bool[Tensor, " positions"] | None:
        """Which positions are real, where the side has the task's own positions and some are padding."""
        real = self._real
        if real is None or side.shape[:2] != real.shape or bool(real.all()):
            return None
        return real.flatten()

    def _with_one_hot(self, block: int, left: Side, right: Side, dtype: torch.dtype) -> Float[Tensor, "batch 1"]:
        """Counts for the side that is one-hot; positions without an index take no part."""
        one, other = (
            (("left", left), ("right", right)) if isinstance(left, OneHot) else (("right", right), ("left", left))
        )
        (name, hot), (beside, dense) = one, other
        assert isinstance(hot, OneHot)
        assert isinstance(dense, Tensor)
        keep = hot.index.flatten() >= 0
        if self._real is not None and hot.index.shape == self._real.shape:
            keep &= self._real.flatten()
        counts = torch.bincount(hot.index.flatten()[keep], minlength=hot.size)
        self._add(name, block, counts.to(dtype), float(keep.sum()))
        self._add(beside, block, *self._square(dense.to(dtype), keep))
        return _total(dense, dtype)


def _total(side: Tensor, dtype: torch.dtype) -> Float[Tensor, "batch 1"]:
    return side.to(dtype).flatten(1).sum(1, keepdim=True)


def _spectrum(moment: Moment, known: list[tuple[Moment, Factor]]) -> Factor:
    """Its eigendecomposition, or that of an equal moment."""
    for other, factor in known[-4:]:
        if moment.count == other.count and _equal(moment, other):
            return factor
    factor = Factor(*moment.spectrum())
    known.append((moment, factor))
    return factor


def _equal(one: Moment, other: Moment) -> bool:
    if one.matrix is None or other.matrix is None or one.matrix.shape != other.matrix.shape:
        return False
    return torch.equal(one.matrix, other.matrix) and torch.equal(one.diagonal, other.diagonal)
