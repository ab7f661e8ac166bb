"""An operator known by eigenvectors of Kronecker form and an eigenvalue for each pair: diagonal, K-FAC and EK-FAC.

    C vec(V) = vec( Q_S [ Lam * (Q_S^T V Q_A) ] Q_A^T ),      (C + lam I)^-1 likewise with 1 / (Lam + lam)

for each block V [rows, cols]. A side without eigenvectors keeps its axes. Cost of a vector and block:
`2 rows cols (rows + cols)`; memory: `rows^2 + cols^2 + rows cols`. Products in the precision of the bases (float32; float64 for
a float64 model), of which the eigenvectors were computed in float64.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from assay.curvature.base import Damping, Fit, Operator, accumulated, accumulating, per_block
from assay.curvature.eigenbasis import Bases, SquaresInBasis
from assay.curvature.store import Workshop
from assay.errors import MethodError
from assay.gradients.blocks import Block
from assay.tasks import Measurement

AT_ONCE = 2**25
"""Numbers of queries' blocks that are turned together (128 MiB of float32)."""


@dataclass(frozen=True, eq=False)
class Spectral(Operator):
    """`eigenvalues` [rows, cols] of each block, in the bases (left, right) of each."""

    kind: ClassVar[str] = "spectral"

    blocks: tuple[Block, ...]
    bases: tuple[Bases, ...]
    eigenvalues: tuple[Tensor, ...]

    @property
    def eigenvalue_means(self) -> Float64[Tensor, " blocks"]:
        """Means over the entries of `Lam`."""
        return torch.stack([values.double().mean().cpu() for values in self.eigenvalues])

    def solve(self, psi: Float[Tensor, "q k"], damping: Damping) -> Float[Tensor, "q k"]:
        """Divide by `Lam + lam` in the basis. Raises MethodError where that is 0."""
        lams = per_block(damping, len(self.blocks))
        for block, values, lam in zip(self.blocks, self.eigenvalues, lams, strict=True):
            if not float(values.min()) + lam > 0:
                raise MethodError(
                    f"The curvature of block '{block.name}' has an eigenvalue of 0 and the damping is {lam:g}, so it "
                    "cannot be inverted. Give a damping above 0."
                )
        return self._turned(psi, [1.0 / (values + lam) for values, lam in zip(self.eigenvalues, lams, strict=True)])

    def apply(self, psi: Float[Tensor, "q k"]) -> Float[Tensor, "q k"]:
        """Multiply by `Lam` in the basis."""
        return self._turned(psi, self.eigenvalues)

    def power(self, psi: Float[Tensor, "q k"], exponent: float, damping: Damping = 0.0) -> Float[Tensor, "q k"]:
        """`(C + lam I)^exponent psi`."""
        lams = per_block(damping, len(self.blocks))
        return self._turned(psi, [(v + lam) ** exponent for v, lam in zip(self.eigenvalues, lams, strict=True)])

    def select(self, names: Sequence[str]) -> "Spectral":
        """Of the blocks with these names."""
        place = {block.name: k for k, block in enumerate(self.blocks)}
        chosen = [place[name] for name in names]
        blocks, bases = tuple(self.blocks[k] for k in chosen), tuple(self.bases[k] for k in chosen)
        return Spectral(blocks, bases, tuple(self.eigenvalues[k] for k in chosen))

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Eigenvalues by block, and each basis once."""
        bases = {id(basis): basis for pair in self.bases for basis in pair if basis is not None}
        order = list(bases)
        tensors = {f"eigenvalues.{k}": values for k, values in enumerate(self.eigenvalues)}
        tensors |= {f"basis.{k}": bases[key] for k, key in enumerate(order)}
        used = [[None if basis is None else order.index(id(basis)) for basis in pair] for pair in self.bases]
        return tensors, {"bases": used}

    @classmethod
    def of(cls, blocks: tuple[Block, ...], tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> "Spectral":
        """From what `tensors` gave."""
        used = cast(list[list[int | None]], content["bases"])
        bases = [tuple(None if k is None else tensors[f"basis.{k}"] for k in pair) for pair in used]
        eigenvalues = tuple(tensors[f"eigenvalues.{k}"] for k in range(len(blocks)))
        return cls(blocks, cast(tuple[Bases, ...], tuple(bases)), eigenvalues)

    def to(self, device: torch.device) -> "Spectral":
        """The same on another device; bases stay shared."""
        moved: dict[int, Tensor] = {}

        def move(basis: Tensor | None) -> Tensor | None:
            return None if basis is None else moved.setdefault(id(basis), basis.to(device))

        bases = tuple((move(left), move(right)) for left, right in self.bases)
        return Spectral(self.blocks, bases, tuple(values.to(device) for values in self.eigenvalues))

    def _turned(self, psi: Float[Tensor, "q k"], factors: Sequence[Tensor]) -> Float[Tensor, "q k"]:
        """Each block times its factors in the basis, a few queries at a time."""
        result = torch.empty_like(psi)
        for block, slot, (left, right), factor in zip(self.blocks, self.slots, self.bases, factors, strict=True):
            size = max(1, AT_ONCE // block.size)
            for rows in (slice(start, start + size) for start in range(0, len(psi), size)):
                part = psi[rows, slot].reshape(-1, block.rows, block.cols).to(factor)
                result[rows, slot] = _in_basis(part, left, right, factor).flatten(1).to(result)
        return result


def _in_basis(
    vectors: Float[Tensor, "q rows cols"], left: Tensor | None, right: Tensor | None, factor: Float[Tensor, "rows cols"]
) -> Float[Tensor, "q rows cols"]:
    """`Q_S [factor * (Q_S^T V Q_A)] Q_A^T`."""
    turned = vectors if left is None else left.T @ vectors
    turned = (turned if right is None else turned @ right) * factor
    turned = turned if left is None else left @ turned
    return turned if right is None else turned @ right.T


def squares_in(
    to: Fit, measurement: Measurement, bases: Sequence[Bases], workshop: Workshop, label: str = "curvature"
) -> Spectral:
    """The operator whose eigenvalues in the given bases are the mean squares of the gradients; a pass over the examples."""
    device, dtype = to.model.device, accumulating(to.model)
    statistic = SquaresInBasis(to.layout.blocks, bases, device)
    accumulated(statistic, to, measurement, workshop, label)
    return Spectral(to.layout.blocks, tuple(bases), tuple(mean.to(dtype) for mean in statistic.means()))
