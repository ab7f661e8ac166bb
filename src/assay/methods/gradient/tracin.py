"""TracIn: inner products of loss gradients along the training run.

    score(i, q) = sum over checkpoints c of  rate_c * < grad L_i(theta_c), grad L_q(theta_c) >

Paper: Pruthi et al., Estimating Training Data Influence by Tracing Gradient Descent, 2020 (arXiv 2002.08484), TracInCP.
Cost: as GradDot for each checkpoint. Derived for plain SGD: the rates of Adam are not steps in the direction of the
gradient. Ignores that later steps forget earlier ones, so its size is not calibrated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from assay.errors import MethodError
from assay.methods.gradient.base import GradientMethod
from assay.models import Model


@dataclass(frozen=True)
class TracIn(GradientMethod):
    """Inner products summed over checkpoints, weighted by the learning rate."""

    name: ClassVar[str] = "tracin"
    summary: ClassVar[str] = "inner products of gradients, summed over checkpoints by learning rate"
    paper: ClassVar[str] = "Pruthi et al. 2020 (2002.08484)"
    blockwise: ClassVar[bool] = True
    every_checkpoint: ClassVar[bool] = True

    def weights(self, rates: Sequence[float]) -> list[float]:
        """The learning rates."""
        return list(rates)

    def check_model(self, model: object) -> Model:
        """The model must have checkpoints."""
        model = super().check_model(model)
        if not model.checkpoints:
            raise MethodError(
                "tracin sums over the checkpoints of the training run, and the model has none. Give them with their "
                "learning rates (checkpoints=..., --checkpoint DIR=RATE), train with assay.Recipe, or use graddot."
            )
        return model
