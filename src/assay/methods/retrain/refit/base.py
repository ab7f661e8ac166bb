"""The data of a fit, and what a refit is."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from numpy.typing import NDArray


def taken(X: Any, rows: NDArray[Any]) -> Any:
    """Rows of an array or a DataFrame."""
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]


@dataclass(frozen=True)
class Data:
    """Training rows X, y and validation rows Xv, yv; `classes` are the sorted labels, None for a regression;
    `weight` is each training row's, which no refit knows.

    X may be a DataFrame; then no refit takes it.
    """

    X: Any
    y: NDArray[Any]
    Xv: Any
    yv: NDArray[Any]
    classes: NDArray[Any] | None
    weight: Float64[np.ndarray, " n"] | None = None

    @property
    def n(self) -> int:
        """Training rows."""
        return len(self.y)

    @cached_property
    def codes(self) -> Int64[np.ndarray, " n"]:
        """Position of each training label among the classes."""
        return np.searchsorted(self._known, self.y).astype(np.int64)

    @cached_property
    def codes_v(self) -> Int64[np.ndarray, " q"]:
        """Position of each validation label among the classes; -1 if it is none of them."""
        known = self._known
        found = np.minimum(np.searchsorted(known, self.yv), len(known) - 1)
        return np.where(known[found] == self.yv, found, -1).astype(np.int64)

    @cached_property
    def scale(self) -> float:
        """Spread of the targets; 1 for classes."""
        return 1.0 if self.classes is not None else float(np.std(self.y.astype(np.float64))) or 1.0

    @property
    def _known(self) -> NDArray[Any]:
        return cast("NDArray[Any]", self.classes)

    def outputs(self, estimator: Any, rows: Bool[np.ndarray, " n"]) -> Float[np.ndarray, "q ..."]:
        """The estimator's own fit on these rows: probabilities of all classes [q, C], or predictions."""
        fitted = estimator.fit(taken(self.X, np.flatnonzero(rows)), self.y[rows])
        return self.predicted(fitted) if self.classes is None else self.probabilities(fitted)

    def predicted(self, fitted: Any) -> Float[np.ndarray, "q ..."]:
        """Predictions for the validation rows."""
        return np.asarray(fitted.predict(self.Xv), dtype=np.float64).reshape(self.yv.shape)

    def probabilities(self, fitted: Any) -> Float64[np.ndarray, "q C"]:
        """Probabilities of all classes; 0 for one that the fit has not seen."""
        p = np.zeros((len(self.yv), len(self._known)))
        p[:, np.searchsorted(self._known, fitted.classes_)] = fitted.predict_proba(self.Xv)
        return p

    def chosen(self, fitted: Any) -> Float64[np.ndarray, "q C"]:
        """1 for the class that is predicted, 0 for the others: for estimators without probabilities too."""
        return (np.asarray(fitted.predict(self.Xv))[:, None] == self._known[None, :]).astype(np.float64)


class Refit(ABC):
    """Fits one set of rows after the other, each starting from the last."""

    @classmethod
    @abstractmethod
    def fits(cls, estimator: Any, data: Data) -> bool:
        """Whether this estimator, with its parameters, is covered."""

    @abstractmethod
    def __init__(self, estimator: Any, data: Data) -> None: ...

    @abstractmethod
    def reset(self) -> None:
        """Forget the last fit."""

    @abstractmethod
    def outputs(self, rows: Bool[np.ndarray, " n"]) -> Float[np.ndarray, "q ..."]:
        """Of the fit on these rows, at least one (of a classifier, at least two classes), for the validation rows:
        probabilities [q, C], or predictions.
        """


def is_plain(data: Data) -> bool:
    """Whether X is an array of finite numbers, two-dimensional."""
    parts: list[Any] = [data.X, data.Xv]
    return all(
        type(part) is np.ndarray and part.ndim == 2 and part.dtype.kind in "fiub" and bool(np.isfinite(part).all())
        for part in parts
    )
