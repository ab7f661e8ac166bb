"""GradDot: the inner product of the two loss gradients.

    score(i, q) = < grad L_i, grad L_q >

To first order, how much a small gradient step on i lowers the loss of q, per unit of step.

Paper: Charpiat et al., Input Similarity from the Neural Network Perspective, 2019 (arXiv 2102.05262); Hanawa et al.,
2021 (arXiv 2006.04528). Cost: one gradient an example and query. Assumes that the end of training tells
about all of it.
"""

from dataclasses import dataclass
from typing import ClassVar

from assay.methods.gradient.base import GradientMethod


@dataclass(frozen=True)
class GradDot(GradientMethod):
    """Inner product of the loss gradients, unscaled."""

    name: ClassVar[str] = "graddot"
    summary: ClassVar[str] = "inner product of the two loss gradients, unscaled"
    paper: ClassVar[str] = "Charpiat et al. 2019 (2102.05262)"
    blockwise: ClassVar[bool] = True
