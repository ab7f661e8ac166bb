"""Average marginal effect: what an example adds to random subsets whose size is random too.

    AME(i) = mean over rates p of  E_p[ U(S with i) - U(S) ],     S holds each of the others with chance p

estimated at once for all examples by a sparse regression of the utility on

    x_i = 1 / p  where i is in the subset,  -1 / (1 - p)  where it is not,      AME(i) = v beta_i,    v = mean of 1 / (p (1-p))

With rates spread evenly over [0, 1] these would be Shapley values; few examples that matter are found with few subsets.

Paper: Lin et al. 2022, ICML (2206.10013), equations 1-3. Cost: one fit a subset, 10 a player by default. Deviation: each
rate's mean utility is taken off first, which changes no expectation and lowers the noise.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
from jaxtyping import Bool, Float64

from assay.methods.base import option
from assay.methods.retrain.base import Retraining, Session
from assay.methods.retrain.estimate import Estimate
from assay.methods.retrain.samplers import Subsets

RATES = (0.2, 0.4, 0.6, 0.8)
BATCH = 16


@dataclass(frozen=True)
class AME(Retraining):
    """Sparse regression of the utility of subsets of random rates."""

    name: ClassVar[str] = "ame"
    summary: ClassVar[str] = "average marginal effect on subsets of random sizes, by sparse regression"
    paper: ClassVar[str] = "Lin et al. 2022 (2206.10013)"

    subsets: int | None = option(None, "random subsets; by default 10 a player")
    penalty: float | None = option(None, "weight of the L1 norm; by default by cross-validation, 0: least squares")

    def check(self) -> None:
        """Numbers out of range."""
        super().check()
        self.expect(self.subsets is None or self.subsets >= 10, "subsets", "10 or more")
        self.expect(self.penalty is None or self.penalty >= 0, "penalty", "0 or more")

    def estimate(self, session: Session) -> Estimate:
        """Draw, evaluate, regress."""
        with session.runner() as runner:
            count = self.subsets or 10 * runner.game.players
            rates, masks = drawn(runner.game.players, count, self.seed)
            units = ((Subsets(masks[start : start + BATCH]),) for start in range(0, count, BATCH))
            utilities = np.concatenate([found for batch in runner.run(units) for found in batch])
        features, centred = regressors(rates, masks), utilities.copy()
        for rate in RATES:
            centred[rates == rate] -= utilities[rates == rate].mean() if (rates == rate).any() else 0.0
        fitted = self._model().fit(features, centred)
        values = np.asarray(fitted.coef_, dtype=np.float64) * spread()
        chosen = getattr(fitted, "alpha_", self.penalty)
        kept = int(np.count_nonzero(values))
        notes = (
            f"{count:,} subsets at rates {', '.join(map(str, RATES))}; penalty {chosen:.3g} keeps {kept:,} players.",
        )
        return Estimate(values, None, None, None, notes)

    def _model(self) -> Any:
        from sklearn import linear_model

        kinds = cast(Any, linear_model)
        if self.penalty is None:
            return kinds.LassoCV(cv=5, random_state=self.seed, max_iter=5_000, fit_intercept=False)
        plain = kinds.LinearRegression(fit_intercept=False)
        return kinds.Lasso(alpha=self.penalty, max_iter=5_000, fit_intercept=False) if self.penalty else plain


def drawn(players: int, count: int, seed: int) -> tuple[Float64[np.ndarray, " m"], Bool[np.ndarray, "m n"]]:
    """Rates in turn, and subsets of them."""
    rates = np.resize(np.array(RATES), count)
    return rates, np.random.default_rng(seed).random((count, players)) < rates[:, None]


def regressors(rates: Float64[np.ndarray, " m"], masks: Bool[np.ndarray, "m n"]) -> Float64[np.ndarray, "m n"]:
    """1/p inside and -1/(1-p) outside: of mean 0 at every rate."""
    p = rates[:, None]
    return np.where(masks, 1 / p, -1 / (1 - p))


def spread() -> float:
    """Variance of a regressor."""
    return float(np.mean([1 / (p * (1 - p)) for p in RATES]))
