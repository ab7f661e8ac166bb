"""An estimator and its training rows, as methods take them that fit it in closed form or in bags."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from assay.errors import DataError, MethodError
from assay.examples import Examples
from assay.methods.retrain.features import Encoding
from assay.methods.retrain.models import estimator_of
from assay.training import EstimatorRecipe


@dataclass(frozen=True)
class Table:
    """Rows X [n, features] with targets y; `classes` are the sorted labels, None for a regression.

    `encoding`: how rows were made numbers, for an estimator that was named; None: they are as they were given.
    """

    estimator: Any
    X: Any = field(repr=False)
    y: NDArray[Any] = field(repr=False)
    classes: NDArray[Any] | None
    encoding: Encoding | None = None

    @cached_property
    def codes(self) -> Int64[np.ndarray, " n"]:
        """Position of each label among the classes."""
        return np.searchsorted(cast("NDArray[Any]", self.classes), self.y).astype(np.int64)

    def rows(self, examples: Examples) -> tuple[Any, NDArray[Any]]:
        """X and y of other examples. Raises DataError."""
        matrix = examples.matrix()
        if matrix.y is None:
            raise DataError(
                f"{examples.origin}: examples have no target; give y beside X, or name the label (--label)."
            )
        X = matrix.X if self.encoding is None else self.encoding(matrix.X)
        return _vectors(X), _targets(matrix.y, self.classes is not None)


def table_of(model: Any, train: Examples) -> Table:
    """Of an estimator of scikit-learn's kind, or its name. Raises MethodError for anything else; DataError."""
    from sklearn import base

    matrix = train.matrix()
    if matrix.y is None:
        raise DataError(f"{train.origin}: examples have no target; give y beside X, or name the label (--label).")
    encoding = None
    if isinstance(model, str):
        model, encoding = estimator_of(model, matrix.y), Encoding(matrix.X)
    model = model.estimator if isinstance(model, EstimatorRecipe) else model
    kinds: Any = base
    classifier = hasattr(model, "fit") and bool(kinds.is_classifier(model))
    if not classifier and not (hasattr(model, "fit") and kinds.is_regressor(model)):
        raise MethodError(
            f"This method fits an estimator, and was given {type(model).__name__}. Give a classifier or regressor of "
            "scikit-learn, or its name (--model), such as forest or logistic."
        )
    X = _vectors(matrix.X if encoding is None else encoding(matrix.X))
    y = _targets(matrix.y, classifier)
    return Table(model, X, y, np.unique(y) if classifier else None, encoding)


def called(model: Any) -> str:
    """What an estimator is called."""
    return model if isinstance(model, str) else type(getattr(model, "estimator", None) or model).__name__ \
        if isinstance(model, EstimatorRecipe) else type(model).__name__  # fmt: skip


def _vectors(X: Any) -> Any:
    return X if hasattr(X, "iloc") else np.ascontiguousarray(X).reshape(len(X), -1)


def _targets(y: Any, classifier: bool) -> NDArray[Any]:
    array = np.asarray(y)
    if classifier:
        return array.astype(str) if array.dtype.kind == "O" else array
    if array.dtype.kind not in "biuf":
        raise DataError("A regression takes numbers as targets, and was given texts; give a classifier.")
    return array.astype(np.float64)
