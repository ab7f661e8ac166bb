"""Two-sided projection onto the leading eigenvectors of the inputs and of the gradients at the outputs.

    phi(G) = B G A^T = sum_t (B d_t)(A a_t)^T,    rows of A, B: top eigenvectors of  sum a_t a_t^T  and  sum d_t d_t^T

(LoGra, Choe et al. 2024, 2405.13954, section 3.2: the K-FAC eigenvectors span where gradients lie.) The sums are over
positions that contribute to a gradient, of a sample of the training examples with their own labels, in float64; the
eigenvectors come from a float64 decomposition. Cost: one pass over the sample with `tokens * (rows^2 + cols^2)` more
operations a block, `rows^3 + cols^3` once; then that of `factored`. Memory: 8 (rows^2 + cols^2) bytes a block while it is
fitted.

Deviations: a side no longer than the rank is kept as it is, which is the same up to a rotation. Random signs, as in
`factored`, serve a side of one-hot vectors (the tokens of an embedding: its leading eigenvectors are just the most
frequent tokens, and all others would be lost) and a side longer than 4,096.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, cast

import torch
from jaxtyping import Float
from torch import Tensor

from assay.compress.factored import Factored, FactoredSketch
from assay.examples import Examples
from assay.gradients.blocks import Block
from assay.gradients.features import feature_tiles
from assay.gradients.rules import OneHot, Side
from assay.gradients.sketch import Compression, Evidence, Fittable, Sketch

SAMPLE = 1024
"""Training examples, spread evenly, that a compression is fitted to."""
LONGEST = 4096
"""Longest side whose covariance is taken."""
Which = str
"""`left` or `right`."""


def sample(examples: Examples) -> Examples:
    """At most `SAMPLE` examples, spread evenly."""
    if len(examples) <= SAMPLE:
        return examples
    return examples.select([k * len(examples) // SAMPLE for k in range(SAMPLE)])


@dataclass(frozen=True)
class Eigenbasis(Fittable, Factored):
    """`rank` numbers a side, so `rank^2` a block, in the eigenbasis of the training data."""

    rank: int = 64

    def fit(self, evidence: Evidence) -> Self:
        """The eigenvectors [size, rank] of each side that is longer than the rank."""
        blocks, model = evidence.layout.blocks, evidence.model
        sides = [(k, which) for k, b in enumerate(blocks) for which in _long(b, self.rank)]
        collecting = _Collecting(sums={key: _zeros(blocks, key) for key in sides})
        some = sample(evidence.examples)
        if sides:
            for _ in feature_tiles(
                model, some, collecting, evidence.measurement, evidence.layout, on_nonfinite="skip", label="covariances"
            ):
                pass
        precision = next(iter(model.parameters.values())).dtype
        dtype = torch.float64 if precision == torch.float64 else torch.float32
        found = {f"{k}.{which}": total for (k, which), total in collecting.sums.items()}
        bases = {name: leading(total, self.rank).to(dtype) for name, total in found.items() if bool(total.any())}
        return replace(self, tensors=bases, of=f"{len(some)} training examples")

    def bind(self, blocks: Sequence[Block], device: torch.device, dtype: torch.dtype) -> FactoredSketch:
        """Eigenvectors, or signs for the sides that have none."""
        found = self.found()
        lefts = [self._side(found, k, b, "left", b.rows, device, dtype) for k, b in enumerate(blocks)]
        rights = [self._side(found, k, b, "right", b.cols, device, dtype) for k, b in enumerate(blocks)]
        return FactoredSketch(lefts, rights, blocks)

    def _side(
        self,
        found: Mapping[str, Tensor],
        k: int,
        block: Block,
        which: Which,
        size: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> Tensor | None:
        basis = found.get(f"{k}.{which}")
        return self._signs(block.name, which, size, device, dtype) if basis is None else basis.to(device, dtype)

    def __str__(self) -> str:
        return f"eigen:{self.rank}"


def leading(covariance: Float[Tensor, "n n"], rank: int) -> Float[Tensor, "n k"]:
    """Eigenvectors of the `rank` largest eigenvalues, the largest first, each with its largest entry positive."""
    vectors: Tensor = cast(Any, torch.linalg).eigh(covariance).eigenvectors[:, -rank:].flip(1)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return (vectors * largest.sign()).contiguous()


def _long(block: Block, rank: int) -> list[Which]:
    sizes: dict[Which, int] = {"left": block.rows, "right": block.cols}
    return [which for which, size in sizes.items() if rank < size <= LONGEST]


def _zeros(blocks: Sequence[Block], key: tuple[int, Which]) -> Tensor:
    size = blocks[key[0]].rows if key[1] == "left" else blocks[key[0]].cols
    return torch.zeros(size, size, dtype=torch.float64)


# -- collecting --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Collecting(Compression):
    """Not a compression but a look at what passes by; `sums` grow."""

    sums: dict[tuple[int, Which], Tensor] = field(default_factory=dict[tuple[int, Which], Tensor])

    def bind(self, blocks: Sequence[Block], device: torch.device, dtype: torch.dtype) -> "_Covariances":
        """One useless number a feature."""
        return _Covariances(blocks, self.sums)

    def __str__(self) -> str:
        return "covariances"


class _Covariances(Sketch):
    """Adds up `sum d d^T` and `sum a a^T` over positions where neither side is zero: padding has no gradient."""

    def __init__(self, blocks: Sequence[Block], sums: dict[tuple[int, Which], Tensor]) -> None:
        self.width, self.slots, self._sums = 1, (slice(0, 1),) * len(blocks), sums
        self._waiting: dict[int, list[tuple[Which, Side]]] = {}

    def left(self, block: int, side: Side) -> Side:
        """Meet the right side, or wait for it."""
        return self._meet(block, "left", side)

    def right(self, block: int, side: Side) -> Side:
        """Meet the left side, or wait for it."""
        return self._meet(block, "right", side)

    def emit(self, block: int, gradient: Float[Tensor, "batch p q"]) -> Float[Tensor, "batch w"]:
        """Nothing of interest."""
        return gradient.flatten(1)[:, :1]

    def whole(self, block: int, gradient: Float[Tensor, "batch rows cols"]) -> Float[Tensor, "batch w"]:
        """Where only the gradient is known: its rows and columns."""
        kept = gradient[gradient.float().isfinite().flatten(1).all(1)].double().cpu()
        for which, flat in (("left", kept.transpose(1, 2)), ("right", kept)):
            if (block, which) in self._sums:
                self._add(block, which, flat.reshape(-1, flat.shape[2]))
        return gradient.new_zeros(len(gradient), 1)

    def _meet(self, block: int, which: Which, side: Side) -> Tensor:
        """Backward reaches a layer's calls in reverse, so the latest of the other side is the partner."""
        waiting = self._waiting.setdefault(block, [])
        if waiting and waiting[-1][0] != which:
            other, partner = waiting.pop()
            both = _nonzero(side) & _nonzero(partner)
            for name, part in ((which, side), (other, partner)):
                if isinstance(part, Tensor) and (block, name) in self._sums:
                    self._add(block, name, part.flatten(0, -2)[both].double().cpu())
        else:
            waiting.append((which, side))
        shape = side.index.shape if isinstance(side, OneHot) else side.shape[:-1]
        device = side.index.device if isinstance(side, OneHot) else side.device
        return torch.zeros(*shape, 1, device=device)

    def _add(self, block: int, which: Which, rows: Float[Tensor, "n size"]) -> None:
        self._sums[block, which] += rows.T @ rows


def _nonzero(side: Side) -> Tensor:
    """Positions, of all examples in one list, whose vector is neither zero nor beyond float32."""
    if isinstance(side, OneHot):
        return (side.index >= 0).flatten()
    flat = side.flatten(0, -2)
    return (flat != 0).any(1) & flat.float().isfinite().all(1)
