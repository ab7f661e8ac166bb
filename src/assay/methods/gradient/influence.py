"""Influence functions: what the methods share that invert a curvature of the training objective.

    score(i, q) = (1/N) < (C + lam I)^-1 grad L_q, grad L_i >

An estimate of `L_q(without i) - L_q(with i)` for J = (1/N) sum_i L_i, to first order in the weight of i, at a minimum of J
(Koh & Liang 2017, 1703.04730, with the sign that a higher score is more helpful). The curvature C is fitted to the
training examples before there are queries; only queries are turned by it.
"""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from jaxtyping import Float
from torch import Tensor

from assay.curvature.base import Curvature, Damping, Fisher, Fit, Operator
from assay.curvature.damping import WORDS, resolved
from assay.examples import Examples
from assay.gradients.blocks import Layout
from assay.gradients.features import OnNonfinite
from assay.methods.base import option
from assay.methods.gradient.base import GradientMethod
from assay.models import Model


@dataclass(frozen=True, eq=False)
class Inverse:
    """A fitted curvature with its damping."""

    operator: Operator
    damping: Damping

    def __call__(self, psi: Float[Tensor, "q k"]) -> Float[Tensor, "q k"]:
        """`(C + lam I)^-1 psi`."""
        return self.operator.solve(psi, self.damping)

    def select(self, names: list[str]) -> "Inverse":
        """Of some blocks."""
        places = [k for k, block in enumerate(self.operator.blocks) if block.name in set(names)]
        damping = self.damping if isinstance(self.damping, (int, float)) else self.damping[places]
        return Inverse(self.operator.select(names), damping)


@dataclass(frozen=True)
class InfluenceMethod(GradientMethod):
    """A subclass says which curvature."""

    unit: ClassVar[str] = "nats of query loss per removed example"
    compresses: ClassVar[bool] = False
    blockwise: ClassVar[bool] = True

    damping: float | str = option(
        "heuristic",
        "added to the curvature: a number, heuristic (a tenth of each block's mean eigenvalue), cv (cross-validated on "
        "the training examples) or path (one over the sum of the run's learning rates)",
    )
    fisher: str = option(
        "sampled",
        "labels of the curvature's gradients: drawn from the model, or the true ones",
        ("sampled", "empirical"),
    )
    fitting_examples: int = option(
        100_000, "training examples that the curvature is fitted to at most, drawn at random"
    )
    low_rank: float = option(
        0.0, "largest relative error, in a block, of low-rank factors in place of a query's turned gradient; 0: exact"
    )
    factors: str | None = option(None, "directory to keep the fitted curvature in, to resume a fit or use it again")

    def check(self) -> None:
        """Damping, sample and error are in range."""
        super().check()
        number = isinstance(self.damping, (int, float)) and self.damping >= 0
        self.expect(number or self.damping in WORDS, "damping", f"a number of at least 0, or one of {', '.join(WORDS)}")
        self.expect(self.fitting_examples >= 1, "fitting_examples", "at least 1")
        self.expect(0 <= self.low_rank < 1, "low_rank", "a relative error from 0 to below 1")

    @abstractmethod
    def curvature(self) -> Curvature:
        """Which curvature of the training objective."""

    def allowed_error(self) -> float:
        """As `low_rank` says."""
        return self.low_rank

    def scale(self, rows: int) -> float:
        """One over the number of training examples."""
        return 1.0 / rows

    def fitted_state(self, model: Model, train: Examples, layout: Layout, stage: int) -> Inverse:
        """The curvature at one checkpoint."""
        measurement = self.train_measurement()
        sample = self._sample(train)
        to = Fit(model, sample, layout, measurement, cast(OnNonfinite, self.on_nonfinite))
        choice = self.curvature()
        folder = None if self.factors is None else Path(self.factors)
        if folder is not None and self.every_checkpoint:
            folder = folder / f"checkpoint-{stage}"
        operator = choice.fit(to, folder)
        return Inverse(operator, resolved(self.damping, operator, choice, to))

    def part(self, state: Any, names: list[str]) -> Inverse:
        """The inverse of some blocks."""
        return cast(Inverse, state).select(names)

    def query_side(self, psi: Float[Tensor, "q k"], state: Any, stage: int) -> Float[Tensor, "q k"]:
        """`(C + lam I)^-1 psi`."""
        return cast(Inverse, state[stage])(psi)

    def _sample(self, train: Examples) -> Examples:
        """At most `fitting_examples`, drawn by the seed, in their order."""
        if len(train) <= self.fitting_examples:
            return train
        chosen = np.random.default_rng(self.seed).choice(len(train), self.fitting_examples, replace=False)
        return train.select(np.sort(chosen).tolist())

    def _fisher(self) -> Fisher:
        return cast(Fisher, self.fisher)
