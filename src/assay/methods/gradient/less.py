"""LESS: the step that Adam would take on a training example, compared with the gradients of a task's examples.

    Gam_c(i) = [(b1 m + (1 - b1) g_i) / (1 - b1^t)] / [sqrt((b2 v + (1 - b2) g_i^2) / (1 - b2^t)) + eps]
    score(i, q) = sum over checkpoints c of  w_c cos(Proj Gam_c(i), Proj g_q)

`m, v`: Adam's averages at checkpoint c, `t` the number of the coming step, so that `-rate * Gam` is what that step would do
to the parameters on this example alone. `w_c`: the rate at the checkpoint (of a `Run` the mean rate since the checkpoint
before), normalised to a sum of 1. Only trainable parameters take part: of a LoRA model the adapter.

A task of several subtasks: `assay.folds.queries(scores, groups, "mean")`, then `assay.folds.value(..., "max")`.

Paper: Xia et al., LESS: Selecting Influential Data for Targeted Instruction Tuning, 2024 (arXiv 2402.04333), eq. 3 and
definition 3.1. Cost: a pass over all examples for each checkpoint, which forms each block's gradient; 8,192 numbers a row
and checkpoint. `b1 m` is common to all rows; how alike they are for it is told with the result.

Deviations: a count-sketch in place of a dense Rademacher projection, whose inner products are as good. The release leaves
out the bias correction and puts eps inside the root, a floor of 1e-4 under every gradient; `published=True` does so too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from assay.compress.elementwise import Stepped
from assay.errors import MethodError
from assay.index.reader import StoredIndex
from assay.methods.base import option
from assay.methods.gradient.base import GradientMethod, RowScale, inverse, with_checkpoints
from assay.methods.gradient.gradcos import unit
from assay.models import Model
from assay.training import Run


@dataclass(frozen=True)
class LESS(GradientMethod):
    """Cosine of Adam's step on a training example with a query's gradient, summed over checkpoints."""

    name: ClassVar[str] = "less"
    summary: ClassVar[str] = (
        "cosine of Adam's step on an example with a query's gradient, summed over checkpoints by rate"
    )
    paper: ClassVar[str] = "Xia et al. 2024 (2402.04333)"
    every_checkpoint: ClassVar[bool] = True
    row_scale: ClassVar[RowScale] = "norm"
    stores: ClassVar[bool] = True

    compression: str = option("sjlt:8192", "none (exact), factored:RANK, sjlt:DIM or eigen:RANK")
    published: bool = option(False, "as the authors' release: no bias correction, eps inside the root")

    def of_run(self, run: Run) -> Model:
        """Each checkpoint with the mean rate since the one before."""
        ends = [state.step for state in run.states]
        spans = zip([0, *ends[:-1]], ends, strict=True)
        rates = [float(run.rates[start:end].mean()) for start, end in spans]
        stages = [replace(stage, rate=rate) for stage, rate in zip(run.checkpoints, rates, strict=True)]
        return with_checkpoints(run.model, stages)

    def check_model(self, model: object) -> Model:
        """The model must have checkpoints."""
        model = super().check_model(model)
        if not model.checkpoints:
            raise MethodError(
                "less takes the checkpoints of a training run by Adam, with what the optimiser remembered there, and the "
                f"model has none. {GIVE}"
            )
        return model

    def staged(self, model: object) -> Model:
        """The checkpoints must know Adam's moments."""
        model = super().staged(model)
        bare = [stage.name for stage in model.checkpoints if stage.moments is None]
        if bare:
            raise MethodError(f"less takes Adam's moments at each checkpoint; unknown at: {', '.join(bare)}. {GIVE}")
        return model

    def train_compression(self) -> Stepped:
        """Adam's step, then projected."""
        base = self.compressor()
        return Stepped(seed=base.seed, base=base, published=self.published)

    def weights(self, rates: Sequence[float]) -> list[float]:
        """The rates, normalised."""
        return [rate / sum(rates) for rate in rates]

    def query_side(self, psi: Float[Tensor, "q k"], state: Any, stage: int) -> Float[Tensor, "q k"]:
        """Unit length."""
        return unit(psi)

    def state(self, source: StoredIndex, model: Model) -> list[float]:
        """At each checkpoint the mean cosine between two rows."""
        return [_alike(source, stage) for stage in range(source.checkpoints)]

    def remarks(self, state: Any) -> tuple[str, ...]:
        """How much the rows have in common."""
        alike = ", ".join(f"{cosine:.2f}" for cosine in state)
        return (
            f"Mean cosine between two training examples, by checkpoint: {alike} (Adam's momentum is common to all).",
        )


GIVE = (
    "Give assay.Recipe(..., optimizer='adamw', checkpoints=4), or directories with the trainer's optimizer.pt "
    "(--checkpoint DIR=RATE)."
)


def _alike(index: StoredIndex, stage: int) -> float:
    """`(|sum of unit rows|^2 - n) / (n (n - 1))`, n being the rows that are not zero; by one pass."""
    total, count = torch.zeros(index.dim, dtype=torch.float64), 0
    for tile in index.tiles(stage):
        phi = tile.features.double()
        scale = inverse(phi.square().sum(1).sqrt())
        total += (phi * scale[:, None]).sum(0)
        count += int((scale > 0).sum())
    return float(total.square().sum() - count) / max(1, count * (count - 1))
