"""Mean and mean square of gradients, by one pass: where a step on all examples points, and what Adam divides it by.

Cost: a forward and a backward pass with gradients formed; twice as many numbers as parameters, in float64 while it runs.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from assay.curvature.base import Fit, accumulating
from assay.curvature.eigenbasis import SquaresInBasis
from assay.curvature.spectral import Spectral
from assay.curvature.sweep import sweep
from assay.gradients.blocks import Block
from assay.gradients.rules import Side


class Averages(SquaresInBasis):
    """Sums of gradients beside the sums of their squares, in the axes of the parameters."""

    def __init__(self, blocks: Sequence[Block], device: torch.device) -> None:
        super().__init__(blocks, [(None, None)] * len(blocks), device)
        self.totals = [torch.zeros_like(total) for total in self.sums]
        self._batch: list[tuple[int, Tensor]] = []

    def begin(self, real: Bool[Tensor, "batch time"] | None) -> None:
        """Forget what an unfinished pass gave."""
        super().begin(real)
        self._batch = []

    def pair(self, block: int, left: Side, right: Side, dtype: torch.dtype) -> Float[Tensor, "batch 1"] | None:
        """One position: the sum is a product of the sides."""
        found = super().pair(block, left, right, dtype)
        if found is not None:
            d, a = (cast(Tensor, side)[:, 0].to(dtype) for side in (left, right))
            self._batch.append((block, d.T @ a))
        return found

    def emit(self, block: int, gradient: Float[Tensor, "batch p q"]) -> Float[Tensor, "batch 1"]:
        """Add gradients and squares; the feature is the sum of the squares."""
        self._batch.append((block, gradient.sum(0)))
        return super().emit(block, gradient)

    def commit(self) -> None:
        """Add to the totals."""
        super().commit()
        for block, total in self._batch:
            self.totals[block] += total
        self._batch = []

    def state(self) -> dict[str, Tensor]:
        """Both sums by block."""
        return super().state() | {f"total.{block}": total for block, total in enumerate(self.totals)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up these totals."""
        super().restore(state)
        self.totals = [state[f"total.{block}"].to(total) for block, total in enumerate(self.totals)]


def averages(to: Fit) -> tuple[Float[Tensor, " k"], Spectral]:
    """The mean gradient, laid out as exact features are, and the operator of the mean squares."""
    found = Averages(to.layout.blocks, to.model.device)
    sweep(to.model, to.examples, found, to.measurement, to.layout, on_nonfinite=to.on_nonfinite, label="mean gradient")
    dtype, none = accumulating(to.model), [(None, None)] * len(to.layout.blocks)
    mean = torch.cat([total.flatten() for total in found.totals]) / max(found.examples, 1)
    squares = Spectral(to.layout.blocks, tuple(none), tuple(square.to(dtype) for square in found.means()))
    return mean.to(dtype).cpu(), squares
