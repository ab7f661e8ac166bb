"""An estimator is its own recipe: scikit-learn's clone and fit, with a weight per example.

Anything with `fit`, `predict` and `get_params` counts: scikit-learn, and the scikit-learn classes of XGBoost, LightGBM
and CatBoost. Rows of weight 0 are taken out before fitting, so that they leave no trace (not in a histogram's bins, not
in a minimum of rows a leaf); other weights than 1 are given as `sample_weight`.
"""

import re
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from assay.errors import DataError, MethodError
from assay.examples import read
from assay.training.data import checked_weights

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
SMALLEST = 1e-15
"""Probabilities below this count as this, as a class that was left out of training has probability 0: 34.5 nats."""


@dataclass(frozen=True)
class Arrays:
    """Examples as an estimator takes them: X [n, features], y [n] or [n, outputs]."""

    X: NDArray[Any] = field(repr=False)
    y: NDArray[Any] = field(repr=False)

    def __len__(self) -> int:
        return len(self.X)

    def select(self, rows: Int[np.ndarray, " k"]) -> "Arrays":
        """The rows at these positions."""
        return Arrays(self.X[rows], self.y[rows])


def arrays(examples: Any) -> Arrays:
    """Examples (or what `assay.read` reads) as arrays; every x is flattened. Raises DataError."""
    if isinstance(examples, Arrays):
        return examples
    examples = read(examples)
    if examples.kind != "arrays":
        raise DataError(
            f"{examples.origin} holds examples of kind '{examples.kind}'; an estimator reads arrays. Give (X, y)."
        )
    rows: list[NDArray[Any]] = []
    targets: list[Any] = []
    for example in examples:
        y = example.data.get("y")
        if y is None:
            raise DataError(f"Example {example.id} has no target; give y beside x.")
        rows.append(np.asarray(example.data["x"]).reshape(-1))
        targets.append(np.asarray(y) if isinstance(y, Tensor) else y)
    if not rows:
        raise DataError("There are no examples; at least one was expected.")
    if len({len(row) for row in rows}) > 1:
        raise DataError(f"{examples.origin} holds rows of different lengths; an estimator takes one length.")
    return Arrays(np.stack(rows), np.asarray(targets))


@dataclass(frozen=True)
class FittedEstimator:
    """A fitted estimator; `estimator` is None where nothing could be fitted, and `fallback` is its prediction.

    With no rows left, or rows of one class only, which many classifiers refuse, the prediction is constant: all classes
    alike or that class; for a regression the mean of the training targets, those left out included.
    """

    estimator: Any
    classes: NDArray[Any] | None
    fallback: NDArray[np.float64] | None = field(default=None, repr=False)

    def loss_of(self, queries: Any) -> Float[Tensor, " n"]:
        """Loss of each query, float64: log loss in nats, or half the squared error summed over outputs."""
        data = arrays(queries)
        if self.classes is None:
            error = self._predict(data.X).reshape(len(data), -1) - data.y.reshape(len(data), -1).astype(np.float64)
            return torch.from_numpy(0.5 * np.square(error).sum(1))
        known = data.y[:, None] == self.classes[None, :]
        probability = (self._probabilities(data.X) * known).sum(1)
        return torch.from_numpy(-np.log(probability.clip(SMALLEST, 1.0)))

    def _predict(self, X: NDArray[Any]) -> NDArray[np.float64]:
        if self.fallback is not None:
            return np.broadcast_to(self.fallback, (len(X), *self.fallback.shape))
        return np.asarray(self.estimator.predict(X), dtype=np.float64)

    def _probabilities(self, X: NDArray[Any]) -> NDArray[np.float64]:
        if self.fallback is not None:
            return np.broadcast_to(self.fallback, (len(X), len(self.fallback)))
        return np.asarray(self.estimator.predict_proba(X), dtype=np.float64)


@dataclass(frozen=True)
class EstimatorRecipe:
    """A classifier or regressor that is cloned and fitted; yours stays as it is.

    Args:
        estimator: an unfitted (or fitted) estimator.
        seed: given to every `random_state` that is None, so that the same data fit the same estimator.
    """

    estimator: Any
    seed: int = 0

    def encode(self, examples: Any) -> Arrays:
        """Examples as arrays, which `train` and `loss_of` take in their place: for many fits on the same."""
        return arrays(examples)

    def facts(self) -> dict[str, Any]:
        """What a fit follows from besides the examples, in terms of JSON: the kind of estimator and its parameters."""
        parameters = self.estimator.get_params(deep=True)
        plain = {name: ADDRESS.sub("", repr(value)) for name, value in sorted(parameters.items())}
        kind = f"{self.estimator.__class__.__module__}.{self.estimator.__class__.__qualname__}"
        return {"estimator": kind, "parameters": plain, "seed": self.seed}

    def train(self, train: Any, weights: Any = None) -> FittedEstimator:
        """Fit a clone. `weights`: one number of 0 or more an example; None: 1 for all.

        Raises:
            MethodError: weights other than 0 and 1 for an estimator without `sample_weight`; negative weights; a
                classifier without `predict_proba`, or neither classifier nor regressor.
            DataError: examples that are not arrays, or without targets.
        """
        from sklearn import base

        kinds: Any = base
        data = arrays(train)
        weight = checked_weights(weights, len(data)).numpy()
        if (weight < 0).any():
            raise MethodError("An estimator takes weights of 0 or more; found a negative one.")
        estimator = self._clone()
        if kinds.is_classifier(estimator):
            return self._classifier(estimator, data, weight)
        if kinds.is_regressor(estimator):
            kept = weight != 0
            if not kept.any():
                return FittedEstimator(None, None, np.asarray(data.y.astype(np.float64).mean(0)))
            return FittedEstimator(self._fit(estimator, data, weight), None)
        raise MethodError(f"{type(estimator).__name__} is neither classifier nor regressor; give one that is.")

    def _classifier(self, estimator: Any, data: Arrays, weight: NDArray[np.float64]) -> FittedEstimator:
        if not hasattr(estimator, "predict_proba"):
            raise MethodError(
                f"{type(estimator).__name__} has no predict_proba, which its loss needs. Wrap it in "
                "sklearn.calibration.CalibratedClassifierCV, or choose a classifier with probabilities."
            )
        left = np.unique(data.y[weight != 0])
        if len(left) > 1:
            fitted = self._fit(estimator, data, weight)
            return FittedEstimator(fitted, np.asarray(fitted.classes_))
        classes = left if len(left) else np.unique(data.y)
        return FittedEstimator(None, classes, np.full(len(classes), 1.0 / len(classes)))

    def _clone(self) -> Any:
        from sklearn import base

        twin = cast(Any, base).clone(self.estimator)
        unseeded = [
            name
            for name, value in twin.get_params(deep=True).items()
            if value is None and name.rpartition("__")[2] == "random_state"
        ]
        return twin.set_params(**dict.fromkeys(unseeded, self.seed))

    def _fit(self, estimator: Any, data: Arrays, weight: NDArray[np.float64]) -> Any:
        from sklearn.utils import validation

        kept = weight != 0
        X, y, weight = data.X[kept], data.y[kept], weight[kept]
        if (weight == 1).all():
            return estimator.fit(X, y)
        if not cast(Any, validation).has_fit_parameter(estimator, "sample_weight"):
            raise MethodError(
                f"{type(estimator).__name__} takes no sample_weight, so weights other than 0 and 1 cannot be used. "
                "Use a method that leaves examples out, or another estimator."
            )
        return estimator.fit(X, y, sample_weight=weight)
