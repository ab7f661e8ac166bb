"""Gaussian naive Bayes from sums: count, sum and sum of squares of each class and feature, centred on the overall mean.

A row is added or removed in O(d); the variances get scikit-learn's smoothing, a share of the largest variance of the set.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from assay.methods.retrain.refit.base import Data, Refit, is_plain


class GaussianBayes(Refit):
    """scikit-learn's GaussianNB with priors from the data."""

    @classmethod
    def fits(cls, estimator: Any, data: Data) -> bool:
        """No given priors."""
        from sklearn.naive_bayes import GaussianNB

        return (
            type(estimator) is GaussianNB and estimator.priors is None and data.classes is not None and is_plain(data)
        )

    def __init__(self, estimator: Any, data: Data) -> None:
        X = data.X.astype(np.float64)
        self._X, self._Xv = X - X.mean(0), data.Xv.astype(np.float64) - X.mean(0)
        self._codes, self._classes = data.codes, len(data.classes) if data.classes is not None else 0
        self._smoothing = float(estimator.var_smoothing)
        self.reset()

    def reset(self) -> None:
        d = self._X.shape[1]
        self._rows = np.zeros(len(self._X), bool)
        self._sums = np.zeros((self._classes, 1 + 2 * d))

    def outputs(self, rows: Bool[np.ndarray, " n"]) -> Float64[np.ndarray, "q C"]:
        """Probabilities; a class without rows has none."""
        changed = np.flatnonzero(rows != self._rows)
        if len(changed) > rows.sum():
            self.reset()
            changed = np.flatnonzero(rows)
        x = self._X[changed]
        signed = np.where(rows[changed], 1.0, -1.0)[:, None] * np.hstack([np.ones((len(x), 1)), x, np.square(x)])
        np.add.at(self._sums, self._codes[changed], signed)
        self._rows = rows.copy()
        return self._posterior()

    def _posterior(self) -> Float64[np.ndarray, "q C"]:
        d = self._X.shape[1]
        present = np.flatnonzero(self._sums[:, 0] > 0.5)
        count, total, squares = np.split(self._sums[present], [1, 1 + d], axis=1)
        m = count.sum()
        overall = squares.sum(0) / m - np.square(total.sum(0) / m)
        mean = total / count
        variance = np.maximum(squares / count - np.square(mean), 0.0) + self._smoothing * overall.max()
        apart = np.square(self._Xv[:, None, :] - mean) / variance
        logits = np.log(count[:, 0] / m) - 0.5 * (np.log(2 * np.pi * variance).sum(1) + apart.sum(2))
        p = np.zeros((len(self._Xv), self._classes))
        p[:, present] = np.exp(logits - logits.max(1, keepdims=True))
        return p / p.sum(1, keepdims=True)
