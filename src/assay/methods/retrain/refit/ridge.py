"""Ridge regression by rank-one updates.

    w = A^-1 X^T y,      A = X^T X + alpha I      (X with a column of ones for the intercept, which is not penalised)

Adding or removing a row changes A^-1 by Sherman and Morrison's formula in O(d^2); after 64 of them it is computed anew,
so that rounding does not add up.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64

from assay.methods.retrain.refit.base import Data, Refit, is_plain

FRESH = 64
LARGEST = 2_000


class RidgeRefit(Refit):
    """scikit-learn's Ridge with one penalty above 0."""

    @classmethod
    def fits(cls, estimator: Any, data: Data) -> bool:
        """One alpha, no positivity."""
        from sklearn.linear_model import Ridge

        if type(estimator) is not Ridge or data.classes is not None or not is_plain(data):
            return False
        alpha = np.asarray(estimator.alpha)
        return bool(alpha.ndim == 0 and alpha > 0 and not estimator.positive and data.X.shape[1] <= LARGEST)

    def __init__(self, estimator: Any, data: Data) -> None:
        parts = [part.astype(np.float64) for part in (data.X, data.Xv)]
        if estimator.fit_intercept:
            parts = [np.hstack([part, np.ones((len(part), 1))]) for part in parts]
        self._X, self._Xv = parts
        self._y = data.y.astype(np.float64).reshape(data.n, -1)
        self._penalty = np.full(self._X.shape[1], float(estimator.alpha))
        if estimator.fit_intercept:
            self._penalty[-1] = 0.0
        self._shape = data.yv.shape
        self.reset()

    def reset(self) -> None:
        self._rows = np.zeros(len(self._X), bool)
        self._inverse = np.zeros((0, 0))
        self._moment = np.zeros((self._X.shape[1], self._y.shape[1]))
        self._updates = FRESH

    def outputs(self, rows: Bool[np.ndarray, " n"]) -> Float[np.ndarray, "q ..."]:
        """Predictions."""
        changed = np.flatnonzero(rows != self._rows)
        if self._updates + len(changed) > FRESH:
            self._anew(rows)
        else:
            for row in changed:
                self._update(self._X[row], self._y[row], 1.0 if rows[row] else -1.0)
            self._updates += len(changed)
        self._rows = rows.copy()
        return (self._Xv @ (self._inverse @ self._moment)).reshape(self._shape)

    def _anew(self, rows: Bool[np.ndarray, " n"]) -> None:
        X = self._X[rows]
        self._inverse = np.linalg.inv(X.T @ X + np.diag(self._penalty))
        self._moment, self._updates = X.T @ self._y[rows], 0

    def _update(self, x: Float64[np.ndarray, " d"], y: Float64[np.ndarray, " k"], sign: float) -> None:
        u = self._inverse @ x
        self._inverse -= np.outer(u, sign * u) / (1.0 + sign * (x @ u))
        self._moment += sign * np.outer(x, y)
