"""Scoring: what a fitted model is worth on validation rows.

Frequent scorers are computed from a model's outputs, as scikit-learn computes them but without its checks of every call,
which cost more than a small fit; all others are scikit-learn's own, or a function `(estimator, X, y) -> float`.

A set of rows that no classifier can be fitted to (empty, or one class only) is worth what its *prior* is worth: class
frequencies with one row more for each class, (m_c + 1) / (m + C). Guessing among equally frequent classes is right in
expectation, 1 / C, for the accuracy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from jaxtyping import Float, Int64
from numpy.typing import NDArray

from assay.errors import MethodError, nearest

SMALLEST = 1e-15
"""Probabilities below this count as this: 34.5 nats."""
Scorer = Callable[[Any, Any, Any], float]


def accuracy(p: Float[np.ndarray, "q C"], codes: Int64[np.ndarray, " q"]) -> float:
    """Share of the rows whose most probable class is theirs; a code of -1 is no known class."""
    return float((p.argmax(1) == codes).mean())


def neg_log_loss(p: Float[np.ndarray, "q C"], codes: Int64[np.ndarray, " q"]) -> float:
    """Mean log probability of the right class, nats."""
    right = np.where(codes >= 0, p[np.arange(len(codes)), codes], 0.0)
    return float(np.log(np.maximum(right, SMALLEST)).mean())


def neg_mean_squared_error(f: NDArray[Any], y: NDArray[Any]) -> float:
    """Negated mean squared error, over rows and outputs."""
    return -float(np.square(f - y).mean())


def neg_mean_absolute_error(f: NDArray[Any], y: NDArray[Any]) -> float:
    """Negated mean absolute error."""
    return -float(np.abs(f - y).mean())


def r2(f: NDArray[Any], y: NDArray[Any]) -> float:
    """Coefficient of determination, the mean over outputs."""
    left: Any = np.square(f - y).sum(0)
    total: Any = np.square(y - y.mean(0)).sum(0)
    return float(np.mean(1 - np.asarray(left / total)))


def guessed_accuracy(prior: Float[np.ndarray, " C"], codes: Int64[np.ndarray, " q"]) -> float:
    """Expected accuracy of a guess among the most frequent classes."""
    best = np.flatnonzero(prior == prior.max())
    return float(np.isin(codes, best).mean() / len(best))


def prior_of(counts: Int64[np.ndarray, " C"]) -> Float[np.ndarray, " C"]:
    """Class frequencies with one row more for each class."""
    return (counts + 1.0) / (counts.sum() + len(counts))


NUMBERS: dict[str, Callable[[Any, Any], float]] = {
    "neg_mean_squared_error": neg_mean_squared_error, "neg_mean_absolute_error": neg_mean_absolute_error, "r2": r2,
}  # fmt: skip


@dataclass(frozen=True)
class Scoring:
    """A scoring under its name.

    `direct` computes it from outputs (probabilities and the classes' positions, or predictions and targets), `prior` from
    the prior, where that is not `direct` of the prior; `predicts` says that only the most probable class matters. Without
    them, `scorer` computes it from a fitted estimator.
    """

    name: str
    direct: Callable[[Any, Any], float] | None = None
    prior: Callable[[Any, Any], float] | None = None
    predicts: bool = False
    scorer: Scorer | None = None

    @classmethod
    def of(cls, given: "str | Scorer | Scoring", classifier: bool) -> "Scoring":
        """`auto` is accuracy for classifiers and the negated mean squared error for regressors. Raises MethodError."""
        if isinstance(given, Scoring):
            return given
        if not isinstance(given, str):
            return cls(name_of(given), scorer=given)
        name = ("accuracy" if classifier else "neg_mean_squared_error") if given == "auto" else given
        if classifier and name in CLASSES:
            return CLASSES[name]
        if not classifier and name in NUMBERS:
            return cls(name, NUMBERS[name])
        from sklearn import metrics

        known = metrics.get_scorer_names()
        if name not in known:
            raise MethodError(
                f"There is no scoring '{name}'. {nearest(name, known)} Or give a function of (model, X, y)."
            )
        return cls(name, scorer=cast(Scorer, metrics.get_scorer(name)))

    def of_prior(self, counts: Int64[np.ndarray, " C"], codes: Int64[np.ndarray, " q"]) -> float:
        """A classifier's score where nothing can be fitted."""
        prior = prior_of(counts)
        if self.prior is not None:
            return self.prior(prior, codes)
        return cast(Any, self.direct)(np.broadcast_to(prior, (len(codes), len(prior))), codes)


CLASSES = {
    "accuracy": Scoring("accuracy", accuracy, guessed_accuracy, predicts=True),
    "neg_log_loss": Scoring("neg_log_loss", neg_log_loss),
}


def name_of(function: Any) -> str:
    """A function's own name."""
    return str(getattr(function, "__name__", type(function).__name__))
