"""Nearest neighbours, of which only the lists of the validation rows that a changed row touches are looked up again.

The distances of all validation rows to all training rows are computed once. A set of fewer rows than K, which
scikit-learn refuses, takes all of them. Equal distances: the earlier row is nearer.
"""

from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from assay.methods.retrain.refit.base import Data, Refit, is_plain

LARGEST = 2**25
"""Distances kept: 256 MiB."""


class Neighbors(Refit):
    """scikit-learn's KNeighborsClassifier and KNeighborsRegressor with uniform weights."""

    @classmethod
    def fits(cls, estimator: Any, data: Data) -> bool:
        """Uniform weights and a metric by name."""
        from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

        if type(estimator) not in (KNeighborsClassifier, KNeighborsRegressor) or not is_plain(data):
            return False
        known = estimator.weights == "uniform" and isinstance(estimator.metric, str) and not estimator.metric_params
        return bool(known and estimator.metric != "precomputed" and data.n * len(data.yv) <= LARGEST)

    def __init__(self, estimator: Any, data: Data) -> None:
        from sklearn import metrics

        options = {"p": estimator.p} if estimator.metric == "minkowski" else {}
        self._distance: Float64[np.ndarray, "q n"] = np.asarray(
            cast(Any, metrics).pairwise_distances(data.Xv, data.X, metric=estimator.metric, **options), dtype=np.float64
        )
        order = np.argsort(self._distance, axis=1, kind="stable")
        self._rank = np.empty_like(order)
        np.put_along_axis(self._rank, order, np.arange(data.n)[None, :], axis=1)
        self._order = order
        y = (
            data.y.astype(np.float64).reshape(data.n, -1)
            if data.classes is None
            else np.eye(len(data.classes))[data.codes]
        )
        self._y: Float64[np.ndarray, "n k"] = y
        self._k, self._shape = int(estimator.n_neighbors), data.yv.shape if data.classes is None else None
        self.reset()

    def reset(self) -> None:
        self._rows = np.zeros(len(self._y), bool)
        q = len(self._rank)
        self._near: Int64[np.ndarray, "q K"] = np.full((q, self._k), len(self._y), dtype=np.int64)
        self._total = np.zeros((q, self._y.shape[1]))

    def outputs(self, rows: Bool[np.ndarray, " n"]) -> Float[np.ndarray, "q ..."]:
        """Shares of the classes among the nearest rows, or their mean target."""
        changed = np.flatnonzero(rows != self._rows)
        if len(changed) > 4:
            self._anew(rows, np.arange(len(self._near)))
        else:
            for row in changed:
                self._rows[row] = rows[row]
                (self._enter if rows[row] else self._leave)(int(row))
        self._rows = rows.copy()
        mean = self._total / min(self._k, int(rows.sum()))
        return mean if self._shape is None else mean.reshape(self._shape)

    def _enter(self, row: int) -> None:
        """`near` holds ranks, so the largest is the furthest; the number of rows stands for an empty place."""
        furthest = self._near.argmax(1)
        lists = np.arange(len(furthest))
        last, rank = self._near[lists, furthest], self._rank[:, row]
        nearer = np.flatnonzero(rank < last)
        out = last[nearer]
        self._total[nearer] += self._y[row]
        full = out < len(self._y)
        self._total[nearer[full]] -= self._y[self._order[nearer[full], out[full]]]
        self._near[nearer, furthest[nearer]] = rank[nearer]

    def _leave(self, row: int) -> None:
        had = np.flatnonzero((self._near == self._rank[:, row, None]).any(1))
        self._anew(self._rows, had)

    def _anew(self, rows: Bool[np.ndarray, " n"], lists: Int64[np.ndarray, " some"]) -> None:
        """The nearest of these rows, for some validation rows."""
        chosen, n = np.flatnonzero(rows), len(self._y)
        ranks = self._rank[np.ix_(lists, chosen)]
        k = min(self._k, len(chosen))
        near = np.full((len(lists), self._k), n, dtype=np.int64)
        if k:
            near[:, :k] = np.partition(ranks, k - 1, axis=1)[:, :k]
        self._near[lists] = near
        self._total[lists] = self._y[np.take_along_axis(self._order[lists], near[:, :k], axis=1)].sum(1)
