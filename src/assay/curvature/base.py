"""What a curvature is: a choice, fitted once to training data; and the operator that it gives, applied to queries.

    C ~ H = curvature of the objective J = mean_i L_i,         psi -> (C + lam I)^-1 psi

Vectors are laid out as `compress.none` lays out gradients: blocks flattened row by row, one behind another. `C` is
block-diagonal unless said otherwise, and `lam` may differ from block to block.

The Fisher matrix, E[g g^T] with labels drawn from the model's own prediction, equals the Gauss-Newton matrix for
cross-entropy and squared error; with the true labels it is the empirical Fisher, which is cheaper to explain and
another matrix.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from assay.curvature.store import Workshop, load, save
from assay.curvature.sweep import Statistic, resume, sweep
from assay.examples import Examples
from assay.gradients.blocks import Block, Layout
from assay.gradients.capture import precision
from assay.gradients.features import OnNonfinite
from assay.models import Model
from assay.tasks import Measurement, Sampled

Fisher = Literal["sampled", "empirical"]
Damping = float | Float64[Tensor, " blocks"]
"""One number for all blocks, or one for each."""


@dataclass(frozen=True)
class Fit:
    """What a curvature is fitted to.

    `measurement` is that of a training example, whose reduction over tokens the curvature takes over.
    """

    model: Model
    examples: Examples
    layout: Layout
    measurement: Measurement
    on_nonfinite: OnNonfinite = "raise"


@dataclass(frozen=True)
class Curvature(ABC):
    """A choice of curvature. `seed` is that of the sampled labels."""

    fisher: Fisher = "sampled"
    seed: int = 0
    name: ClassVar[str]

    def fit(self, to: Fit, folder: Path | None = None) -> "Operator":
        """The operator. With a `folder` it is kept there: a fit that was killed goes on where it was, one that is
        finished is read; the bits are the same.

        Raises IndexMismatch for the folder of another model, data or choice; CorruptIndex, StorageError,
        NonFiniteError.
        """
        workshop = Workshop(folder, facts(self, to) if folder is not None else {})
        if workshop.done:
            assert folder is not None
            workshop.finish()
            return load_operator(folder)
        operator = self.fitted(to, workshop)
        if folder is not None:
            operator.save(folder)
            workshop.finish()
        return operator

    @abstractmethod
    def fitted(self, to: Fit, workshop: Workshop) -> "Operator":
        """The operator, with what is kept on the way in `workshop`."""

    def measured(self, to: Fit) -> Measurement:
        """The measurement whose gradients' second moment the curvature is."""
        return Sampled(to.measurement.reduction, self.seed) if self.fisher == "sampled" else to.measurement


class Operator(ABC):
    """A fitted curvature `C`; immutable."""

    kind: ClassVar[str]
    blocks: tuple[Block, ...]

    @property
    def slots(self) -> tuple[slice, ...]:
        """Where each block lies in a vector."""
        ends = [0]
        for block in self.blocks:
            ends.append(ends[-1] + block.size)
        return tuple(slice(a, b) for a, b in pairwise(ends))

    @property
    @abstractmethod
    def eigenvalue_means(self) -> Float64[Tensor, " blocks"]:
        """The mean eigenvalue of each block of `C`."""

    @abstractmethod
    def solve(self, psi: Float[Tensor, "q k"], damping: Damping) -> Float[Tensor, "q k"]:
        """`(C + lam I)^-1 psi` for every row, in the dtype of psi."""

    @abstractmethod
    def apply(self, psi: Float[Tensor, "q k"]) -> Float[Tensor, "q k"]:
        """`C psi` for every row, in the dtype of psi."""

    @abstractmethod
    def select(self, names: Sequence[str]) -> "Operator":
        """The operator of some of its blocks, in this order."""

    @abstractmethod
    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON values that it is made of again by `of`."""

    @classmethod
    @abstractmethod
    def of(cls, blocks: tuple[Block, ...], tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> "Operator":
        """The inverse of `tensors`."""

    def heuristic(self, share: float = 0.1) -> Float64[Tensor, " blocks"]:
        """A share of each block's mean eigenvalue (Grosse et al. 2023 take a tenth). A block without any curvature,
        whose gradients all vanish, takes that of the others.
        """
        means = self.eigenvalue_means
        return share * torch.where(means > 0, means, means.mean().clamp(min=torch.finfo(torch.float64).tiny))

    def save(self, folder: Path) -> None:
        """Write to a directory, the manifest last. Raises StorageError."""
        tensors, content = self.tensors()
        blocks = [asdict(block) for block in self.blocks]
        save(folder, tensors, {"kind": self.kind, "blocks": blocks, **content})


def load_operator(folder: Path) -> Operator:
    """What `save` wrote. Raises CorruptIndex, IndexMismatch."""
    from assay.curvature.dense import DenseOperator
    from assay.curvature.spectral import Spectral

    tensors, content = load(folder)
    kinds: dict[str, type[Operator]] = {kind.kind: kind for kind in (Spectral, DenseOperator)}
    blocks = tuple(
        Block(about["name"], about["rows"], about["cols"], tuple(about["parameters"]), about["transposed"])
        for about in cast(list[dict[str, Any]], content["blocks"])
    )
    return kinds[content["kind"]].of(blocks, tensors, content)


def facts(choice: Curvature, to: Fit) -> dict[str, Any]:
    """What decides the operator, told to people where it differs."""
    return {
        "curvature": choice.name,
        **{f"option {name}": value for name, value in asdict(choice).items()},
        "loss over tokens": to.measurement.reduction,
        "modules": list(to.model.patterns),
        "model": to.model.fingerprint(),
        "training data": to.examples.fingerprint(),
        "blocks": [block.name for block in to.layout.blocks],
        "nonfinite": to.on_nonfinite,
    }


def accumulated(statistic: Statistic, to: Fit, measurement: Measurement, workshop: Workshop, label: str) -> None:
    """All examples added to the statistic, from where an earlier attempt stopped, kept on the way in the workshop."""
    start, kept = 0, workshop.progress()
    if kept is not None:
        start, state = kept
        resume(statistic, state)
    keep = workshop.keep if workshop.folder is not None else None
    given = (to.model, to.examples, statistic, measurement, to.layout)
    sweep(*given, on_nonfinite=to.on_nonfinite, start=start, keep=keep, label=label)


def accumulating(model: Model) -> torch.dtype:
    """Float64 for a float64 model, otherwise float32."""
    return torch.float64 if precision(model) == torch.float64 else torch.float32


def per_block(damping: Damping, blocks: int) -> list[float]:
    """One number for each block."""
    return [damping] * blocks if isinstance(damping, (int, float)) else [float(lam) for lam in damping]
