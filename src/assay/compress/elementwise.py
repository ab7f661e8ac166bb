"""A map of each number of a gradient, then a projection: what an optimiser makes of a gradient before its step.

    Scaled     u   = G / sqrt(V)                                                      TrackStar, train and query side
    Stepped    Gam = [(b1 m + (1 - b1) G) / c1] / [sqrt((b2 v + (1 - b2) G^2) / c2) + eps]      LESS, train side only

with c = 1 - b^(t + 1), `m, v` Adam's averages after t steps: `-rate * Gam` is the very change that Adam's next step would
make on this example alone. The maps are elementwise, so a block's gradient is formed, mapped, and projected by the
compression that is wrapped (`P Gam Q^T`, or a count-sketch): `batch * rows * cols` numbers at once, `3 * parameters` kept.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor

from assay.compress.eigenbasis import sample
from assay.compress.none import Identity, IdentitySketch
from assay.errors import MethodError
from assay.gradients.blocks import Block
from assay.gradients.features import feature_tiles
from assay.gradients.sketch import Compression, Evidence, Fittable, Sketch

FLOOR = 1e-6
"""Of a block's mean second moment, added to each: else a parameter that the sample never moved would outweigh all."""


@dataclass(frozen=True)
class Elementwise(Fittable):
    """A map of numbers in front of the compression `base`."""

    base: Compression = Identity()  # noqa: RUF009 - frozen
    forms_gradients: ClassVar[bool] = True

    def at(self, number: int) -> Self:
        """The base's matrices differ between checkpoints."""
        return replace(self, base=self.base.at(number))

    def fit(self, evidence: Evidence) -> Self:
        """The base's own fit too, if it has one."""
        base = self.base.fit(evidence) if isinstance(self.base, Fittable) else self.base
        tensors, of = self.look(evidence)
        if isinstance(base, Fittable):
            tensors |= {f"base.{name}": tensor for name, tensor in base.found().items()}
        return replace(self, tensors=tensors, of=of, base=base)

    @abstractmethod
    def look(self, evidence: Evidence) -> tuple[dict[str, Tensor], str]:
        """What the map needs, by the block's number, and what it was made of."""

    @abstractmethod
    def mapped(self, block: int, gradient: Float[Tensor, "batch rows cols"]) -> Float[Tensor, "batch rows cols"]:
        """The map."""

    def bind(self, blocks: Sequence[Block], device: torch.device, dtype: torch.dtype) -> "ElementwiseSketch":
        """The base's matrices behind the map."""
        return ElementwiseSketch(blocks, self, self.bound_base().bind(blocks, device, dtype), device)

    def bound_base(self) -> Compression:
        """The base with what was found for it, if it depends on data."""
        if not isinstance(self.base, Fittable):
            return self.base
        found = self.found().items()
        return replace(self.base, tensors={k.removeprefix("base."): t for k, t in found if k.startswith("base.")})

    def __str__(self) -> str:
        return str(self.base)


@dataclass(frozen=True)
class Scaled(Elementwise):
    """`G / sqrt(V)`; V from Adam's memory, or else the mean of the squared gradients of a sample."""

    transform: ClassVar[str] = "scaled by the second moment"

    def look(self, evidence: Evidence) -> tuple[dict[str, Tensor], str]:
        """`1 / sqrt(V + 1e-6 mean V)` of each block; 0 where V is all 0."""
        if evidence.moments is None:
            some = sample(evidence.examples)
            squares, of = _squares(evidence), f"the mean squared gradient of {len(some)} training examples"
        else:
            moments = evidence.moments()
            squares = [
                b.assemble({n: moments.second[n][None] for n in b.parameters})[0] for b in evidence.layout.blocks
            ]
            of = f"Adam's second moment after {moments.step} steps"
        return {str(k): _root(square.double()).float() for k, square in enumerate(squares)}, of

    def mapped(self, block: int, gradient: Float[Tensor, "batch rows cols"]) -> Float[Tensor, "batch rows cols"]:
        """`G / sqrt(V)`."""
        return gradient * self.found()[str(block)].to(gradient)


@dataclass(frozen=True)
class Stepped(Elementwise):
    """The step that Adam would take on the example, up to the rate and its sign; queries' gradients stay as they are.

    `published` follows the authors' release: no bias correction, eps inside the root.
    """

    published: bool = False
    transform: ClassVar[str] = "Adam's step"
    kept: ClassVar[bool] = False

    def look(self, evidence: Evidence) -> tuple[dict[str, Tensor], str]:
        """Both averages, and the constants of the coming step."""
        if evidence.moments is None:
            raise MethodError("The checkpoint has no moments of Adam, which this compression takes.")
        moments, blocks = evidence.moments(), evidence.layout.blocks
        parts = {"m": moments.first, "v": moments.second}
        tensors = {
            f"{k}.{key}": block.assemble({name: part[name][None] for name in block.parameters})[0].contiguous()
            for k, block in enumerate(blocks)
            for key, part in parts.items()
        }
        constants = torch.tensor([*moments.betas, moments.eps, moments.step + 1], dtype=torch.float64)
        return {**tensors, "constants": constants}, f"Adam's moments after {moments.step} steps"

    def mapped(self, block: int, gradient: Float[Tensor, "batch rows cols"]) -> Float[Tensor, "batch rows cols"]:
        """`Gam`."""
        found = self.found()
        b1, b2, eps, t = (float(number) for number in found["constants"])
        m = found[f"{block}.m"].to(gradient).mul(b1).add(gradient, alpha=1 - b1)
        v = found[f"{block}.v"].to(gradient).mul(b2).addcmul(gradient, gradient, value=1 - b2)
        if self.published:
            return m / (v + eps).sqrt()
        return (m / (1 - b1**t)) / (v.sqrt() / (1 - b2**t) ** 0.5 + eps)

    def for_queries(self) -> Compression:
        """The base alone."""
        return self.base if self.tensors is None else self.bound_base()


class ElementwiseSketch(IdentitySketch):
    """The sides are kept, as the map needs the gradient; contributions wait for each other unless the map is linear."""

    def __init__(self, blocks: Sequence[Block], choice: Elementwise, base: Sketch, device: torch.device) -> None:
        super().__init__(blocks)
        self._choice, self._base = choice, base
        self.width, self.slots, self.linear = base.width, base.slots, isinstance(choice, Scaled)
        self._zeros = [torch.zeros(0)] * len(blocks)
        if not self.linear:
            self.offset = torch.zeros(self.width, dtype=torch.float64, device=device)
            for k, block in enumerate(blocks):
                zero = torch.zeros(1, block.rows, block.cols, dtype=torch.float64, device=device)
                self._zeros[k] = base.whole(k, choice.mapped(k, zero))[0]
                self.offset[self.slots[k]] += self._zeros[k]

    def emit(self, block: int, gradient: Float[Tensor, "batch p q"]) -> Float[Tensor, "batch w"]:
        """Above what a zero gradient gives, which is there already."""
        numbers = self._base.whole(block, self._choice.mapped(block, gradient))
        return numbers if self.linear else numbers - self._zeros[block].to(numbers)

    def whole(self, block: int, gradient: Float[Tensor, "batch rows cols"]) -> Float[Tensor, "batch w"]:
        """The same."""
        return self.emit(block, gradient)


# -- V of a sample -----------------------------------------------------------------------------------------------------


def _root(square: Float[Tensor, "rows cols"]) -> Float[Tensor, "rows cols"]:
    floored = square + FLOOR * square.mean()
    return torch.where(floored > 0, floored.clamp(min=torch.finfo(floored.dtype).tiny).rsqrt(), 0.0)


def _squares(evidence: Evidence) -> list[Tensor]:
    """Sums of the squared gradients of a sample, float64; the number of examples is a factor that no cosine sees."""
    squaring = _Squaring(sums=tuple(torch.zeros(b.rows, b.cols, dtype=torch.float64) for b in evidence.layout.blocks))
    some, model = sample(evidence.examples), evidence.model
    for _ in feature_tiles(
        model, some, squaring, evidence.measurement, evidence.layout, on_nonfinite="skip", label="second moments"
    ):
        pass
    return list(squaring.sums)


@dataclass(frozen=True, eq=False)
class _Squaring(Compression):
    """Not a compression but a look at what passes by; `sums` grow."""

    sums: tuple[Tensor, ...] = ()

    def bind(self, blocks: Sequence[Block], device: torch.device, dtype: torch.dtype) -> "_Squares":
        """One useless number a feature."""
        return _Squares(blocks, self.sums)

    def __str__(self) -> str:
        return "squares"


class _Squares(IdentitySketch):
    """Adds up squared gradients."""

    linear = False

    def __init__(self, blocks: Sequence[Block], sums: Sequence[Tensor]) -> None:
        super().__init__(blocks)
        self.width, self.slots, self._sums = 1, (slice(0, 1),) * len(blocks), sums

    def emit(self, block: int, gradient: Float[Tensor, "batch p q"]) -> Float[Tensor, "batch w"]:
        """Those of examples whose gradients a float32 holds."""
        kept = gradient[gradient.float().isfinite().flatten(1).all(1)]
        self._sums[block].add_(kept.double().square().sum(0).cpu())
        return gradient.new_zeros(len(gradient), 1)

    def whole(self, block: int, gradient: Float[Tensor, "batch rows cols"]) -> Float[Tensor, "batch w"]:
        """The same."""
        return self.emit(block, gradient)
