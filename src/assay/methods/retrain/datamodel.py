"""Datamodels: a linear model of the utility of a subset, fitted to random subsets.

    U(S)  ~  b + sum over i in S of  phi_i,      phi by least squares with an L1 penalty chosen by cross-validation

Each example is in a subset with probability `fraction`, which the values depend on. Without penalty and with one half they
are the Banzhaf values in the limit of all subsets. How well the model predicts the utility of subsets it was not fitted to
(R^2) is told with the values: near 0 they say little.

Paper: Ilyas et al. 2022, ICML (arXiv 2202.00622), equation 3 and section 2.2. Cost: one fit a subset, 10 a player by default.
Deviation: the utility (a mean over the validation examples) is modelled, not each validation example's output.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
from jaxtyping import Bool, Float64

from assay.methods.base import option
from assay.methods.retrain.base import Retraining, Session
from assay.methods.retrain.estimate import Estimate
from assay.methods.retrain.least_core import sampled

HELD_OUT = 0.2


@dataclass(frozen=True)
class Datamodel(Retraining):
    """Coefficients of a sparse linear model of the utility."""

    name: ClassVar[str] = "datamodel"
    summary: ClassVar[str] = "coefficients of a sparse linear model that predicts the utility of a subset"
    paper: ClassVar[str] = "Ilyas et al. 2022 (2202.00622)"

    subsets: int | None = option(None, "random subsets; by default 10 a player")
    fraction: float = option(0.5, "chance of a player to be in a subset")
    penalty: float | None = option(
        None, "weight of the L1 norm; by default chosen by cross-validation, 0: least squares"
    )

    def check(self) -> None:
        """Numbers out of range."""
        super().check()
        self.expect(self.subsets is None or self.subsets >= 10, "subsets", "10 or more")
        self.expect(0 < self.fraction < 1, "fraction", "a share above 0 and below 1")
        self.expect(self.penalty is None or self.penalty >= 0, "penalty", "0 or more")

    def estimate(self, session: Session) -> Estimate:
        """Fit to four fifths of the subsets for R^2, then to all."""
        with session.runner() as runner:
            count = self.subsets or 10 * runner.game.players
            masks, utilities = sampled(runner, count, self.fraction, self.seed)
        kept = int(len(masks) * (1 - HELD_OUT))
        trial = self._model().fit(_signs(masks[:kept]), utilities[:kept])
        r2 = _r2(trial.predict(_signs(masks[kept:])), utilities[kept:])
        final = self._model().fit(_signs(masks), utilities)
        values = 2 * np.asarray(final.coef_, dtype=np.float64)
        chosen = getattr(final, "alpha_", self.penalty)
        notes = (
            f"{len(masks):,} subsets of {self.fraction:.0%}; penalty {chosen:.3g}; R^2 on held-out subsets: {r2:.3f}.",
        )
        return Estimate(values, None, None, None, notes)

    def _model(self) -> Any:
        from sklearn import linear_model

        kinds = cast(Any, linear_model)
        if self.penalty is None:
            return kinds.LassoCV(cv=5, random_state=self.seed, max_iter=5_000)
        return kinds.Lasso(alpha=self.penalty, max_iter=5_000) if self.penalty else kinds.LinearRegression()


def _signs(masks: Bool[np.ndarray, "m n"]) -> Float64[np.ndarray, "m n"]:
    """1 and -1, as uncorrelated with the intercept as may be; a coefficient is then half a value."""
    return np.where(masks, 1.0, -1.0)


def _r2(predicted: Float64[np.ndarray, " m"], true: Float64[np.ndarray, " m"]) -> float:
    spread = float(np.square(true - true.mean()).sum())
    return 1 - float(np.square(true - predicted).sum()) / spread if spread else float("nan")
