"""What capture expects of a compression: linear maps of per-example gradients to short feature vectors.

A *compression* is a frozen choice (`Factored(rank=16)`); bound to a model's blocks it is a *sketch*, which holds the
random matrices. All sketches are linear, so contributions of tied layers and chunks of tokens simply add up, and
`E <sketch(g), sketch(h)> = <g, h>`.

Shapes: `batch` examples, `time` positions, a block's gradient [rows, cols], `width` numbers in a feature vector.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from assay.gradients.blocks import Block
from assay.gradients.rules import OneHot, Side


@dataclass(frozen=True)
class Compression(ABC):
    """A choice of compression; the same seed gives the same matrices on every device."""

    seed: int = 0
    forms_gradients: ClassVar[bool] = True
    """Whether a block's gradient is formed for an example (as opposed to projected sides only)."""

    @abstractmethod
    def bind(self, blocks: Sequence[Block], device: torch.device, dtype: torch.dtype) -> "Sketch":
        """The matrices for these blocks."""

    @abstractmethod
    def __str__(self) -> str:
        """As on the command line, for example `factored:16`."""


class Sketch(ABC):
    """Maps of every block's gradient into one feature vector of `width` numbers."""

    width: int
    slots: tuple[slice, ...]
    """Where each block's numbers go; blocks may share a slot."""
    linear: bool = True
    """Whether contributions to a block may be emitted one by one and added."""

    @abstractmethod
    def left(self, block: int, side: Side) -> Side:
        """Compress the side of the rows, [batch, time, rows] or [tokens, rows], as soon as it is known."""

    @abstractmethod
    def right(self, block: int, side: Side) -> Side:
        """Compress the side of the columns."""

    @abstractmethod
    def emit(self, block: int, gradient: Float[Tensor, "batch p q"]) -> Float[Tensor, "batch w"]:
        """Numbers for the block's slot, from the gradient whose sides have been compressed."""

    @abstractmethod
    def whole(self, block: int, gradient: Float[Tensor, "batch rows cols"]) -> Float[Tensor, "batch w"]:
        """Numbers for the block's slot, from an uncompressed gradient."""


def sum_outer(left: Side, right: Side, dtype: torch.dtype) -> Float[Tensor, "batch p q"]:
    """`sum_t left_t right_t^T` for each example, accumulated in `dtype`; at most one side is one-hot."""
    if isinstance(right, OneHot):
        return sum_outer(right, left, dtype).transpose(1, 2)
    if isinstance(left, OneHot):
        return _scatter(left, right.to(dtype))
    return torch.bmm(left.to(dtype).transpose(1, 2), right.to(dtype))


def sum_outer_flat(
    left: Float[Tensor, "tokens p"],
    right: Float[Tensor, "tokens q"],
    example: Int[Tensor, " tokens"],
    batch: int,
    dtype: torch.dtype,
) -> Float[Tensor, "batch p q"]:
    """The same for tokens of several examples in one list, ordered by example."""
    total = torch.zeros(batch, left.shape[1], right.shape[1], dtype=dtype, device=left.device)
    starts = [int(k) for k in torch.searchsorted(example, torch.arange(batch + 1, device=example.device))]
    for b in range(batch):
        first, end = starts[b], starts[b + 1]
        if first < end:
            total[b] = left[first:end].to(dtype).T @ right[first:end].to(dtype)
    return total


def gather(table: Float[Tensor, "size p"], side: OneHot) -> Float[Tensor, "batch time p"]:
    """`onehot @ table`: rows of the table; zeros where there is no index."""
    rows = table[side.index.clamp(min=0)]
    return rows * (side.index >= 0)[..., None] if bool((side.index < 0).any()) else rows


def generator(seed: int, *names: object) -> torch.Generator:
    """A CPU generator whose state depends on the seed and the names only."""
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def _scatter(left: OneHot, right: Float[Tensor, "batch time q"]) -> Float[Tensor, "batch size q"]:
    """Add row t of `right` at row `index[t]`."""
    batch, _, q = right.shape
    right = right * (left.index >= 0)[..., None]
    offset = torch.arange(batch, device=right.device)[:, None] * left.size
    flat = (left.index.clamp(min=0) + offset).reshape(-1)
    total = torch.zeros(batch * left.size, q, dtype=right.dtype, device=right.device)
    return total.index_add_(0, flat, right.reshape(-1, q)).reshape(batch, left.size, q)
