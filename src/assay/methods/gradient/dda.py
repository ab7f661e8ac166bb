"""DDA: debias and denoise attribution, for what fine-tuning taught a model that already knew much.

    S_k(i, q) = < grad L_i(theta_k),  delta_k(q) >,         delta_k(q) = grad [L_q(wrong) - L_q(right)](theta_k)
    DDA(i, q) = (1/K) sum over k = 1..K of  S_k(i, q) / sd_k(q)   -   beta * S_0(i, q) / sd_0(q)

theta_0 is the model before fine-tuning, the first checkpoint; theta_1..K are those of fine-tuning. A query carries a wrong
answer (`completion`) and the right one (`contrast`): the score is above zero for an example that taught the wrong answer.
The mean over checkpoints is the denoising, the base's part the debiasing. sd_k(q), the standard deviation of a query's scores
over the training examples, makes checkpoints comparable whose gradients shrink as the model fits (the z-score without its
centre, which moves all examples of a query alike: an example without gradient scores 0).

Paper: Wu et al., Enhancing Training Data Attribution for Large Language Models with Fitting Error Consideration, 2024 (EMNLP;
arXiv 2410.01285). Its scripts are not published: the scale, and that the base's part uses the base's own direction, are
reconstructions. Cost: that of GradDot for each of K checkpoints, and of the base if beta is not 0; with an index one more scan.

Deviation: beta is 0 by default, where the paper's debiasing would be 1. What fine-tuning did to the contrast is, to first
order, the sum of S_k along the run, whose first term is S_0: the base's knowledge is in the contrast that the run starts
with, and no row is credited with it. Retraining agrees (`tests/oracles/test_dda.py`), and planted swaps (`benchmarks/dda.py`)
are found ever worse as beta grows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from assay.errors import MethodError
from assay.index.reader import StoredIndex
from assay.methods.base import option
from assay.methods.gradient.base import GradientMethod, inverse, with_checkpoints
from assay.models import Checkpoint, Model
from assay.tasks import Choosable, Contrast
from assay.training import Run

GIVE = (
    "Give the base model first, then those of fine-tuning (checkpoints=..., --checkpoint BASE=1 --checkpoint EPOCH=1 ...; "
    "the rates are not used), or an assay.Recipe with checkpoints=its epochs."
)


@dataclass(frozen=True)
class DDA(GradientMethod):
    """Contrastive inner products, a mean over the checkpoints of fine-tuning less the base model's."""

    name: ClassVar[str] = "dda"
    summary: ClassVar[str] = "who taught the wrong answer: contrast of answers, mean over epochs, less the base model's"
    paper: ClassVar[str] = "Wu et al. 2024 (2410.01285)"
    blockwise: ClassVar[bool] = True
    every_checkpoint: ClassVar[bool] = True
    from_start: ClassVar[bool] = True

    measure: Choosable = option(  # noqa: RUF009 - a field
        "contrast",
        "what of a query is explained: contrast (its completion rather than its contrast), loss, margin, ...",
    )
    beta: float = option(0.0, "how much of the base model's scores is subtracted; the paper's debiasing is 1")
    level: str = option(
        "deviation",
        "what a query's scores at each checkpoint are divided by: their standard deviation, or nothing",
        ("deviation", "none"),
    )

    def check(self) -> None:
        """`beta` is a finite share of at least 0."""
        super().check()
        self.expect(0 <= self.beta < np.inf, "beta", "a number of at least 0")

    def of_run(self, run: Run) -> Model:
        """The run's checkpoints behind the model that it started from."""
        if run.initial is None:
            raise MethodError(f"dda needs the model before training, which this run does not know. {GIVE}")
        return with_checkpoints(run.model, [Checkpoint("base", 1.0, run.initial), *run.checkpoints])

    def check_model(self, model: object) -> Model:
        """The base and at least one more checkpoint."""
        model = super().check_model(model)
        if len(model.checkpoints) < 2:
            has = f"{len(model.checkpoints) or 'no'} checkpoint{'' if len(model.checkpoints) == 1 else 's'}"
            raise MethodError(
                f"dda compares the model before fine-tuning with its later checkpoints, and the model has {has}. {GIVE}"
            )
        return model

    def weights(self, rates: Sequence[float]) -> list[float]:
        """`-beta` of the base, `1/K` of each other; the rates do not matter."""
        later = len(rates) - 1
        return [-self.beta, *[1.0 / later] * later]

    def score_notes(self) -> tuple[str, ...]:
        """Who is meant by a score above zero."""
        if not isinstance(self.outcome(), Contrast):
            return super().score_notes()
        return (
            "A score above zero means that the example taught the query's completion rather than its contrast (of a wrong "
            f"and a right answer: taught the wrong one), beyond {self.beta:g} times what the base model had of it.",
        )

    # -- the deviation of exact scores, and of those of an index -----------------------------------------------------

    def column_scale(self, scores: Float[np.ndarray, "n q"]) -> Float[np.ndarray, " q"] | None:
        """One over the standard deviation of each query's scores."""
        if self.level == "none":
            return None
        return inverse(torch.from_numpy(scores.std(axis=0))).numpy()

    def state(self, source: StoredIndex, model: Model) -> "Scales":
        """The index, of which the queries will make a pass."""
        return Scales(source)

    def state_for(self, state: Any, psi: Float[Tensor, "c q k"]) -> "Scales":
        """With the deviation of each query's scores at each checkpoint."""
        return state if self.level == "none" else state.of(psi)

    def query_side(self, psi: Float[Tensor, "q k"], state: Any, stage: int) -> Float[Tensor, "q k"]:
        """Of an index: over the deviation of the query's scores. Exact scores are divided once they are there."""
        if not isinstance(state, Scales) or state.each is None:
            return psi
        return psi * state.each[stage][:, None].to(psi.dtype)


@dataclass(frozen=True)
class Scales:
    """An index, and one over the deviation of each query's scores at each of its checkpoints, once there are queries."""

    source: StoredIndex
    each: Float[Tensor, "c q"] | None = None

    def of(self, psi: Float[Tensor, "c q k"]) -> "Scales":
        """By one pass over the index, in float64."""
        return replace(self, each=torch.stack([self._deviation(psi[c].double(), c) for c in range(len(psi))]))

    def _deviation(self, psi: Float[Tensor, "q k"], stage: int) -> Float[Tensor, " q"]:
        total, squares = torch.zeros(2, len(psi), dtype=torch.float64)
        for tile in self.source.tiles(stage):
            scores = tile.features.double() @ psi.T
            total += scores.sum(0)
            squares += scores.square().sum(0)
        mean = total / self.source.rows
        return inverse((squares / self.source.rows - mean.square()).clamp(min=0).sqrt())
