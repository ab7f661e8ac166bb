"""Logistic regression by few Newton steps from the last set's solution.

    F(W) = sum_i -log p(y_i | x_i) + |W|^2 / (2 C)      (the intercept is not penalised; two classes: one vector w)

Newton's steps with the last Hessian for as long as it brings the solution closer fast enough, a new one otherwise, and
halved steps where F would rise. It ends where a step lowers F by less than 1e-15 of a nat or so: far closer to the
optimum than scikit-learn's default tolerance. Cost: a product with the rows a step, and a solve of d C unknowns now and then.
"""

from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float64, Int64

from assay.methods.retrain.refit.base import Data, Refit, is_plain

LARGEST = 400
"""Unknowns above which a general solver is better."""
SOLVERS = ("lbfgs", "newton-cg", "newton-cholesky", "sag", "saga")
DONE, SLOW, STEPS = 1e-15, 0.04, 200
"""Squared Newton decrement of the last step; how much of it may be left before a new Hessian; steps at most."""


class Logistic(Refit):
    """scikit-learn's LogisticRegression with an L2 penalty."""

    @classmethod
    def fits(cls, estimator: Any, data: Data) -> bool:
        """No class weights, no warm start; few enough unknowns; the multinomial loss."""
        from sklearn.linear_model import LogisticRegression

        if type(estimator) is not LogisticRegression or data.classes is None or not is_plain(data):
            return False
        given = cast(dict[str, Any], estimator.get_params())
        l2 = given.get("penalty") in ("l2", "deprecated") and given.get("l1_ratio") in (None, 0, 0.0)
        plain = given.get("class_weight") is None and given.get("multi_class", "deprecated") in ("auto", "deprecated")
        unknowns = (data.X.shape[1] + 1) * (len(data.classes) if len(data.classes) > 2 else 1)
        return bool(l2 and plain and given["solver"] in SOLVERS and 0 < given["C"] < np.inf and unknowns <= LARGEST)

    def __init__(self, estimator: Any, data: Data) -> None:
        one = [np.ones((len(part), 1)) for part in (data.X, data.Xv)] if estimator.fit_intercept else None
        parts = [part.astype(np.float64) for part in (data.X, data.Xv)]
        self._A, self._Av = parts if one is None else (np.hstack(pair) for pair in zip(parts, one, strict=True))
        self._codes, self._classes = data.codes, len(data.classes) if data.classes is not None else 0
        self._penalty = np.full(self._A.shape[1], 1.0 / float(estimator.C))
        if one is not None:
            self._penalty[-1] = 0.0
        self._intercept = one is not None
        self.reset()

    def reset(self) -> None:
        self._present: tuple[int, ...] = ()
        self._weights = np.zeros((0, 0))
        self._inverse: Float64[np.ndarray, "k k"] | None = None

    def outputs(self, rows: Bool[np.ndarray, " n"]) -> Float64[np.ndarray, "q C"]:
        """Probabilities; classes that are not among the rows have none."""
        chosen = np.flatnonzero(rows)
        codes = self._codes[chosen]
        present = np.flatnonzero(np.bincount(codes, minlength=self._classes))
        if tuple(present.tolist()) != self._present:
            self._present, self._inverse = tuple(present.tolist()), None
            self._weights = np.zeros((1 if len(present) == 2 else len(present), self._A.shape[1]))
        position = np.zeros(self._classes, np.int64)
        position[present] = np.arange(len(present))
        self._solve(self._A[chosen], position[codes])
        p = np.zeros((len(self._Av), self._classes))
        p[:, present] = _probabilities(self._Av @ self._weights.T)[1]
        return p

    def _solve(self, A: Float64[np.ndarray, "m d"], codes: Int64[np.ndarray, " m"]) -> None:
        """Minimise F from where W is."""
        target = np.zeros((len(A), len(self._present)))
        target[np.arange(len(A)), codes] = 1.0
        w, last, fresh = self._weights, np.inf, False
        loss, shares = self._loss(A, codes, w)
        for _ in range(STEPS):
            gradient = self._gradient(A, shares, target, w)
            if self._inverse is None:
                self._inverse, fresh = np.linalg.inv(self._hessian(A, shares)), True
            step = (self._inverse @ gradient.ravel()).reshape(w.shape)
            decrement = float((gradient * step).sum())
            if not fresh and decrement > SLOW * last:
                self._inverse = None
                continue
            size, (trial, found) = 1.0, self._loss(A, codes, w - step)
            most = loss + 1e-12 * abs(loss)
            while fresh and trial > most and size > 1e-8:
                size /= 2
                trial, found = self._loss(A, codes, w - size * step)
            if trial > most:
                self._inverse = None
                if fresh:  # rounding: no step lowers the loss any more
                    break
                continue
            w, loss, shares, last = w - size * step, trial, found, decrement
            if decrement < DONE:
                break
            fresh = False
            if size < 1:
                self._inverse = None
        self._weights = w

    def _loss(
        self, A: Float64[np.ndarray, "m d"], codes: Int64[np.ndarray, " m"], W: Float64[np.ndarray, "k d"]
    ) -> tuple[float, Float64[np.ndarray, "m C"]]:
        """F, and the probabilities at W."""
        log_total, P, right = _probabilities(A @ W.T, codes)
        return float((log_total - right).sum() + 0.5 * (np.square(W) * self._penalty).sum()), P

    def _gradient(
        self, A: Float64[np.ndarray, "m d"], P: Float64[np.ndarray, "m C"], target: Float64[np.ndarray, "m C"],
        W: Float64[np.ndarray, "k d"],
    ) -> Float64[np.ndarray, "k d"]:  # fmt: skip
        error = (P - target)[:, -1:] if len(W) == 1 else P - target
        return error.T @ A + W * self._penalty

    def _hessian(self, A: Float64[np.ndarray, "m d"], P: Float64[np.ndarray, "m C"]) -> Float64[np.ndarray, "k k"]:
        """Of F; the direction that moves all intercepts alike, along which F is flat, is made steep."""
        d = A.shape[1]
        if P.shape[1] == 2:
            one = (A.T * (P[:, 0] * P[:, 1])) @ A
            one.ravel()[:: d + 1] += self._penalty
            return one
        C = P.shape[1]
        B = (P[:, :, None] * A[:, None, :]).reshape(len(A), C * d)
        H = -(B.T @ B)
        blocks = (P.T[:, None, :] * A.T) @ A
        for k in range(C):
            H[k * d : (k + 1) * d, k * d : (k + 1) * d] += blocks[k]
        H.ravel()[:: C * d + 1] += np.tile(self._penalty, C)
        if self._intercept:
            H[d - 1 :: d, d - 1 :: d] += 1.0
        return H


def _probabilities(Z: Float64[np.ndarray, "m k"], codes: Int64[np.ndarray, " m"] | None = None) -> Any:
    """Log of the sum of exponentials, the probabilities, and each row's own logit; one column is the log odds."""
    logits = np.hstack([np.zeros_like(Z), Z]) if Z.shape[1] == 1 else Z
    top = logits.max(1, keepdims=True)
    odds = np.exp(logits - top)
    total = odds.sum(1, keepdims=True)
    log_total = (top + np.log(total))[:, 0]
    return log_total, odds / total, (None if codes is None else logits[np.arange(len(Z)), codes])
