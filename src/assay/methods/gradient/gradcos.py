"""GradCos: the cosine of the two loss gradients.

    score(i, q) = < grad L_i, grad L_q > / (|grad L_i| |grad L_q|)

Between -1 and 1; an example scores 1 with itself. Long and hard examples, whose gradients are large, do not win by
size alone. A zero gradient scores 0.

Paper: Hanawa et al., Evaluation of Similarity-based Explanations, 2021 (arXiv 2006.04528). Cost: as GradDot.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from assay.methods.gradient.base import GradientMethod, RowScale, inverse


@dataclass(frozen=True)
class GradCos(GradientMethod):
    """Cosine of the loss gradients."""

    name: ClassVar[str] = "gradcos"
    summary: ClassVar[str] = "cosine of the two loss gradients"
    paper: ClassVar[str] = "Hanawa et al. 2021 (2006.04528)"
    row_scale: ClassVar[RowScale] = "norm"

    def query_side(self, psi: Float[Tensor, "q k"], state: Any, stage: int) -> Float[Tensor, "q k"]:
        """Unit length."""
        return unit(psi)


def unit(psi: Float[Tensor, "q k"]) -> Float[Tensor, "q k"]:
    """Rows of length 1. Summed in float64, one row at a time: over millions of numbers float32 loses digits."""
    length = torch.stack([query.double().square().sum().sqrt() for query in psi])
    return psi * inverse(length).to(psi.dtype)[:, None]
