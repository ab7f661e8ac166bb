"""Valuation as an object of scikit-learn: `Valuer("shapley").fit(X, y).score(Xv, yv)`, also at the end of a pipeline."""

from dataclasses import replace
from typing import Any, Self, cast

import pandas as pd
from sklearn import base

from assay.api import value
from assay.errors import MethodError
from assay.examples import read
from assay.methods import Registered, find
from assay.values import Values

Base: Any = cast(Any, base).BaseEstimator


class Valuer(Base):
    """Values of training rows for validation rows.

    Args:
        method: the name of a value method, or a method with its hyper-parameters.
        estimator: the model that is valued for, for methods that train again: an estimator, or a name such as `"knn"`;
            None is a linear model.

    `values_` is the whole result (`assay.Values`) after `score`.
    """

    def __init__(self, method: str | Registered = "shapley", estimator: Any = None) -> None:
        self.method, self.estimator = method, estimator

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Keep the training rows; arrays or a DataFrame. `groups`: one name a row, to value groups in place of rows."""
        self.train_ = read((X, y))
        self.index_ = getattr(X, "index", None)
        self.groups_ = None if groups is None else tuple(str(name) for name in groups)
        return self

    def score(self, X: Any, y: Any) -> Any:
        """One number a training row (or group), higher = worth more for predicting these rows.

        A Series with the index of the training DataFrame, or an array [n]; of groups a Series by their names.
        """
        if not hasattr(self, "train_"):
            raise MethodError("The Valuer was not fitted; call fit(X, y) with the training rows first.")
        method: Any = find(self.method)
        if self.groups_ is not None:
            if not hasattr(method, "by"):
                raise MethodError(f"The method '{method.name}' values rows, not groups; leave groups out.")
            method = replace(method, by=self.groups_)
        model = self.estimator if self.estimator is not None or method.family != "retrain" else "linear"
        self.values_: Values = value(model, self.train_, (X, y), method)
        if self.groups_ is not None:
            return pd.Series(self.values_.array, index=list(self.values_.ids), name="value")
        if self.index_ is None:
            return self.values_.array
        return pd.Series(self.values_.array, index=self.index_, name="value")
