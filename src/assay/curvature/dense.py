"""The whole Fisher matrix, dense, in float64: for models of a few thousand parameters, and as the oracle of the others.

    C = mean over examples of g g^T,         (C + lam I)^-1 by its eigendecomposition

over all parameters together, cross terms between layers included. Cost: N k^2 to accumulate, k^3 once; 16 k^2 bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from assay.compress.none import Identity
from assay.curvature.base import Curvature, Damping, Fit, Operator, per_block
from assay.curvature.gram import SecondMoment, eigh, factored, solve
from assay.curvature.store import Workshop
from assay.errors import MethodError
from assay.gradients.blocks import Block
from assay.gradients.capture import capturing
from assay.gradients.features import not_finite
from assay.progress import task as progress

MOST = 2**14
"""Parameters at most: 4 GiB for the matrix and its eigenvectors."""
AT_ONCE = 32
"""Examples in a batch."""


@dataclass(frozen=True)
class Dense(Curvature):
    """The second moment of all gradients."""

    name: ClassVar[str] = "dense"

    def fitted(self, to: Fit, workshop: Workshop) -> "DenseOperator":
        """One pass. Raises MethodError: too many parameters."""
        size = sum(block.size for block in to.layout.blocks)
        if size > MOST:
            raise MethodError(
                f"A dense curvature of {size:,} parameters was asked for; at most {MOST:,} were expected. Choose ekfac, "
                "or fewer modules."
            )
        moment, measurement, task = SecondMoment(size), self.measured(to), to.model.task
        with capturing(to.model, Identity(), to.layout) as capture, progress("curvature", len(to.examples)) as advance:
            for k in range(0, len(to.examples), AT_ONCE):
                items = [task.encode(example) for example in to.examples[k : k + AT_ONCE]]
                batch = task.collate(items, to.model.device)
                gradients, losses = capture(batch, measurement)
                bad = not_finite(batch.ids, gradients.float(), losses, to.on_nonfinite)
                moment.add(gradients[~bad].cpu())
                advance(len(items))
        values, vectors = eigh(moment.sum / max(moment.weight, 1.0))
        return DenseOperator(to.layout.blocks, values.clamp(min=0), vectors)


@dataclass(frozen=True, eq=False)
class DenseOperator(Operator):
    """Eigenvalues [k] and eigenvectors [k, k] over all parameters."""

    kind: ClassVar[str] = "dense"

    blocks: tuple[Block, ...]
    values: Float64[Tensor, " k"]
    vectors: Float64[Tensor, "k k"]

    @property
    def matrix(self) -> Float64[Tensor, "k k"]:
        """`C` itself."""
        return (self.vectors * self.values) @ self.vectors.T

    @property
    def eigenvalue_means(self) -> Float64[Tensor, " blocks"]:
        """The mean of all, for every block, as there is one matrix."""
        return self.values.mean().repeat(len(self.blocks))

    def solve(self, psi: Float[Tensor, "q k"], damping: Damping) -> Float[Tensor, "q k"]:
        """By the eigendecomposition; blocks with different dampings by a Cholesky factor. Raises MethodError: singular."""
        lams = per_block(damping, len(self.blocks))
        if len(set(lams)) > 1:
            each = torch.cat(
                [torch.full((b.size,), lam, dtype=torch.float64) for b, lam in zip(self.blocks, lams, strict=True)]
            )
            return solve(factored(self.matrix + each.diag(), 0.0), psi)
        damped = self.values + lams[0]
        if not float(damped.min()) > 0:
            raise MethodError(
                f"The curvature is singular and the damping is {lams[0]:g}, so it cannot be inverted. Give a damping above 0."
            )
        return self._turned(psi, 1.0 / damped)

    def apply(self, psi: Float[Tensor, "q k"]) -> Float[Tensor, "q k"]:
        """`C psi`."""
        return self._turned(psi, self.values)

    def select(self, names: Sequence[str]) -> "DenseOperator":
        """All blocks only: one matrix cannot be divided."""
        if list(names) != [block.name for block in self.blocks]:
            raise MethodError("A dense curvature couples all blocks; it cannot be applied to some of them.")
        return self

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Eigenvalues and eigenvectors."""
        return {"values": self.values, "vectors": self.vectors}, {}

    @classmethod
    def of(
        cls, blocks: tuple[Block, ...], tensors: Mapping[str, Tensor], content: Mapping[str, Any]
    ) -> "DenseOperator":
        """From what `tensors` gave."""
        return cls(blocks, tensors["values"], tensors["vectors"])

    def _turned(self, psi: Float[Tensor, "q k"], factor: Float64[Tensor, " k"]) -> Float[Tensor, "q k"]:
        return (((psi.double() @ self.vectors) * factor) @ self.vectors.T).to(psi)
