"""DataInf: influence functions in closed form, layer by layer, by swapping the order of mean and inverse.

    H_l^-1 = ((1/n) sum_j g_j g_j^T + lam_l I)^-1   ~   (1/n) sum_j (g_j g_j^T + lam_l I)^-1
    score(i, q) = (1/N) sum_l (1/lam_l) [ <g_q, g_i> - (1/n) sum_j <g_q, g_j> <g_j, g_i> / (lam_l + |g_j|^2) ]_l

with g the gradients by layer l (a block: one weight with its bias) and the inverses by Sherman & Morrison. The bracket is a
linear map of g_q, so it is folded into the queries once and training examples are then met by inner products alone.

Paper: Kwon, Wu, Wu & Zou 2024, ICLR (2310.00902), eq. 5 and 7, `lam_l = 0.1 mean g^2` over rows and coordinates (section
3). The paper's sign is the other one, and it leaves out 1/N. Cost: two passes over n examples' gradients, then one inner
product a pair. The curvature is the empirical Fisher matrix of single layers. The swap's error grows with the layer's
size: meant for LoRA adapters; layers above 10^4 parameters are told.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from assay.compress import Identity
from assay.examples import Examples
from assay.gradients.blocks import Layout
from assay.gradients.features import OnNonfinite, feature_tiles
from assay.methods.base import option
from assay.methods.gradient.inverse import InverseMethod, Solver, some
from assay.models import Model

LARGE = 10**4
"""Parameters of a layer above which the swap of mean and inverse is told to be rough."""


@dataclass(frozen=True)
class DataInf(InverseMethod):
    """Closed-form influence by a mean of inverses, for small layers such as LoRA."""

    name: ClassVar[str] = "datainf"
    summary: ClassVar[str] = "closed-form influence by a mean of rank-one inverses, layer by layer; for LoRA"
    paper: ClassVar[str] = "Kwon et al. 2024 (2310.00902)"

    damping: float = option(0.1, "times the mean squared gradient of a layer: lam of that layer")
    fitting_examples: int = option(1024, "random training examples that the curvature is made of")

    def check(self) -> None:
        """Numbers in range."""
        super().check()
        self.expect(self.damping > 0, "damping", "a number above 0")
        self.expect(self.fitting_examples >= 1, "fitting_examples", "at least 1")

    def fitted_state(self, model: Model, train: Examples, layout: Layout, stage: int) -> "Folded":
        """The mean squares of each layer, by a first pass."""
        rows = some(train, self.fitting_examples, self.seed)
        folded = Folded(self, model, rows, layout, torch.empty(0, dtype=torch.float64))
        squares, count = torch.zeros(len(layout.blocks), dtype=torch.float64), 0
        for g in folded.gradients():
            squares += torch.stack([part.square().sum() for part in folded.split(g)])
            count += len(g)
        sizes = torch.tensor([block.size for block in layout.blocks])
        found = Folded(self, model, rows, layout, self.damping * squares / (count * sizes))
        found.notes.extend(_large(layout))
        return found


@dataclass(frozen=True)
class Folded(Solver):
    """The mean of inverses; `lam` is the damping of each block. A block whose gradients all vanish stays out."""

    method: DataInf
    model: Model
    rows: Examples
    layout: Layout
    lam: Float64[Tensor, " blocks"]

    def __call__(self, psi: Float[Tensor, "q params"]) -> Float[Tensor, "q params"]:
        """The bracket over lam, in float64 sums; by a second pass over the gradients."""
        folds = [torch.zeros_like(part) for part in self.split(psi)]
        count = 0
        for g in self.gradients():
            count += len(g)
            for lam, q, part, fold in zip(self.lam, self.split(psi), self.split(g), folds, strict=True):
                if lam > 0:
                    fold += ((q @ part.T) / (lam + part.square().sum(1))) @ part
        parts = zip(self.lam, self.split(psi), folds, strict=True)
        return torch.cat([(q - fold / count) / lam if lam > 0 else 0 * q for lam, q, fold in parts], 1).to(psi)

    def gradients(self) -> Iterator[Float64[Tensor, "n params"]]:
        """Of the fitting examples, a window at a time."""
        measurement = self.method.train_measurement()
        on_nonfinite = cast(OnNonfinite, self.method.on_nonfinite)
        for tile in feature_tiles(
            self.model, self.rows, Identity(), measurement, self.layout, on_nonfinite=on_nonfinite, label="curvature"
        ):
            yield tile.features.double()

    def split(self, vectors: Float[Tensor, "n params"]) -> tuple[Float64[Tensor, "n size"], ...]:
        """By block."""
        return cast(Any, vectors.double().split([block.size for block in self.layout.blocks], 1))


def _large(layout: Layout) -> list[str]:
    """A warning that names layers for which the formula is rough."""
    large = [block.name for block in layout.blocks if block.size > LARGE]
    if not large:
        return []
    some = ", ".join(large[:3]) + (", ..." if len(large) > 3 else "")
    return [f"datainf is meant for layers of at most {LARGE:,} parameters; {len(large)} are larger: {some}."]
