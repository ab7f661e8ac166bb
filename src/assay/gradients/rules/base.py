"""What a layer's rule gives: factors of the per-example gradient of its parameters.

Shapes: `batch` examples, `time` positions a layer's weight was applied at (1 if there is no sequence), `rows` and
`cols` of the block. `G[b] = sum_t left[b, t] right[b, t]^T`.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Int
from torch import Tensor, nn


class NotByExample(Exception):
    """A layer's input is not arranged with the examples first; its parameters need the slow path."""


@dataclass(frozen=True)
class OneHot:
    """A matrix [batch, time, size] whose rows are unit vectors, kept as their positions; -1 is a row of zeros."""

    index: Int[Tensor, "batch time"]
    size: int


Side = Tensor | OneHot
BlockSpec = tuple[str, tuple[int, int], Sequence[nn.Parameter | None]]
"""(name within the module or "", (rows, cols), the parameters that the block holds)."""


class Rule(ABC):
    """How one type of layer turns inputs and output gradients into per-example gradients."""

    broadcasts = False
    """Whether the layer may run once for all examples (position embeddings), its output being added to theirs."""

    transposed = False
    """Whether the weight is stored [in, out]."""

    @abstractmethod
    def fits(self, module: nn.Module) -> bool:
        """Whether this rule is exact for the module."""

    @abstractmethod
    def blocks(self, module: nn.Module) -> list[BlockSpec]:
        """The module's blocks."""


class Factored(Rule):
    """A layer that applies its one block as a matrix: `G = sum_t left_t right_t^T`.

    One side is known when the layer runs (`early`), the other when its output's gradient arrives (`late`);
    `early_is_left` says which.
    """

    early_is_left = False

    def shared(self, module: nn.Module) -> Hashable:
        """Modules for which this is equal, and not None, have equal early sides where they have the same input."""
        return None

    @abstractmethod
    def early(self, module: nn.Module, x: Tensor, batch: int) -> Side:
        """The side given by the layer's input, [batch, time, .]."""

    @abstractmethod
    def late(self, module: nn.Module, d: Tensor, batch: int) -> Tensor:
        """The side given by the gradient at the layer's output, [batch, time, .]."""


class Whole(Rule):
    """A layer whose per-example gradients are small or cannot be factored; they are formed, block by block."""

    @abstractmethod
    def early(self, module: nn.Module, x: Tensor, batch: int) -> Tensor:
        """What to keep of the input until the gradient arrives."""

    @abstractmethod
    def gradients(self, module: nn.Module, kept: Tensor, d: Tensor, batch: int) -> dict[str, Tensor]:
        """Per-example gradients by the block's name within the module, [batch, rows, cols]."""


def parameter(module: nn.Module, name: str) -> nn.Parameter:
    """The module's own weight."""
    return cast(nn.Parameter, getattr(module, name))


def optional(module: nn.Module, name: str) -> nn.Parameter | None:
    """The module's own bias, if it has one."""
    return cast(nn.Parameter | None, getattr(module, name, None))


def precise(x: Tensor) -> Tensor:
    """At least float32, for sums."""
    return x if x.dtype == torch.float64 else x.float()


def positions(x: Tensor, batch: int) -> Tensor:
    """[batch, ..., n] or [batch * time, n] as [batch, time, n]."""
    if x.ndim > 1 and x.shape[0] == batch:
        return x.reshape(batch, -1, x.shape[-1])
    if x.ndim == 2 and x.shape[0] % batch == 0:
        return x.reshape(batch, -1, x.shape[-1])
    raise NotByExample


def with_bias(x: Tensor, bias: nn.Parameter | None) -> Tensor:
    """Append the constant 1 that the bias multiplies."""
    return x if bias is None else torch.cat([x, x.new_ones(*x.shape[:-1], 1)], -1)


def matrix(module: nn.Module, transposed: bool = False) -> list[BlockSpec]:
    """One block: the weight with its bias as a last column; rows are outputs."""
    weight, bias = parameter(module, "weight"), optional(module, "bias")
    rows, cols = weight.shape[0], weight[0].numel()
    rows, cols = (cols, rows) if transposed else (rows, cols)
    return [("", (rows, cols + (bias is not None)), (weight, bias))]
