"""What capture expects of a compression: maps of per-example gradients to short feature vectors.

A *compression* is a frozen choice (`Factored(rank=16)`); bound to a model's blocks it is a *sketch*, which holds the
random matrices. A linear sketch takes the contributions of tied layers and chunks of tokens one by one and adds them;
for a random projection `E <sketch(g), sketch(h)> = <g, h>`. Statistics of gradients (moments of their sides, of their
coordinates in another basis) are sketches too, that add up what they see beside the features.

Shapes: `batch` examples, `time` positions, a block's gradient [rows, cols], `width` numbers in a feature vector.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from assay.errors import MethodError
from assay.examples import Examples
from assay.gradients.blocks import Block, Layout
from assay.gradients.rules import OneHot, Side
from assay.models import Model
from assay.moments import AdamMoments
from assay.tasks import Measurement
from assay.tasks.measurements import generator as generator


@dataclass(frozen=True)
class Evidence:
    """What a compression may be fitted to: a model at a checkpoint, examples, what is measured, Adam's memory there."""

    model: Model
    examples: Examples
    measurement: Measurement
    layout: Layout
    moments: Callable[[], AdamMoments] | None = None


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

    def at(self, number: int) -> Self:
        """For checkpoint `number`: independent random matrices, so that their errors average out."""
        return replace(self, seed=self.seed + 7919 * number)


@dataclass(frozen=True)
class Fittable(Compression):
    """A compression that depends on data: `fit` gives one that can be bound, this one cannot.

    `transform` names what is done to a gradient beside the projection; features of different transforms cannot be
    compared. `tensors` are what was found, None before `fit`; an index keeps them if queries need them (`kept`).
    """

    tensors: Mapping[str, Tensor] | None = field(default=None, repr=False, compare=False)
    of: str = ""
    """What it was fitted to, in words."""

    transform: ClassVar[str] = "none"
    kept: ClassVar[bool] = True

    @abstractmethod
    def fit(self, evidence: Evidence) -> Self:
        """Fitted to a checkpoint. The same evidence gives the same bits on one machine."""

    def for_queries(self) -> Compression:
        """The compression of queries' gradients, which are compared with features of this one."""
        return self

    def found(self) -> Mapping[str, Tensor]:
        """The tensors. Raises MethodError if it was not fitted."""
        if self.tensors is None:
            raise MethodError(f"The compression '{self}' depends on the training data; fit it before it is used.")
        return self.tensors


class Sketch(ABC):
    """Maps of every block's gradient into one feature vector of `width` numbers."""

    width: int
    slots: tuple[slice, ...]
    """Where each block's numbers go; blocks may share a slot."""
    linear: bool = True
    """Whether contributions to a block may be emitted one by one and added."""
    offset: Tensor | None = None
    """Features [width] of a zero gradient, to which blocks add, where that is not zero."""

    additive: bool | None = None
    """Whether `pair` and `tokens` may be asked for contributions one by one; None: as `linear`."""

    def begin(self, real: Bool[Tensor, "batch time"] | None) -> None:  # noqa: B027 - for those that keep something
        """A pass over a batch starts, perhaps the same one again; `real`: positions that are no padding, None: all."""

    @abstractmethod
    def left(self, block: int, side: Side) -> Side:
        """Compress the side of the rows, [batch, time, rows] or [tokens, rows], as soon as it is known."""

    @abstractmethod
    def right(self, block: int, side: Side) -> Side:
        """Compress the side of the columns."""

    def formed(self, block: int, gradient: Float[Tensor, "batch p q"], time: int) -> Float[Tensor, "batch p q"]:
        """What is left to do where the gradient was formed from its two compressed sides of `time` positions."""
        return gradient

    def pair(self, block: int, left: Side, right: Side, dtype: torch.dtype) -> Float[Tensor, "batch w"] | None:
        """Numbers for the block's slot from its two compressed sides, where that is cheaper than by the gradient; None:
        form the gradient.
        """
        return None

    def tokens(
        self,
        block: int,
        left: Float[Tensor, "tokens p"],
        right: Float[Tensor, "tokens q"],
        example: Int[Tensor, " tokens"],
        batch: int,
    ) -> Float[Tensor, "batch w"] | None:
        """The same for some tokens of `batch` examples in one list, ordered by `example`."""
        return None

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


def _scatter(left: OneHot, right: Float[Tensor, "batch time q"]) -> Float[Tensor, "batch size q"]:
    """Add row t of `right` at row `index[t]`."""
    batch, _, q = right.shape
    right = right * (left.index >= 0)[..., None]
    offset = torch.arange(batch, device=right.device)[:, None] * left.size
    flat = (left.index.clamp(min=0) + offset).reshape(-1)
    total = torch.zeros(batch * left.size, q, dtype=right.dtype, device=right.device)
    return total.index_add_(0, flat, right.reshape(-1, q)).reshape(batch, left.size, q)
