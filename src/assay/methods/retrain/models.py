"""Estimators by name, for the command line: a few that need no choices, and any other as `module:Class(parameter=1)`."""

import ast
import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.errors import MethodError, nearest

NAMES: dict[str, tuple[str | None, str | None]] = {
    "linear": ("sklearn.linear_model:LogisticRegression(max_iter=1000)", "sklearn.linear_model:Ridge"),
    "logistic": ("sklearn.linear_model:LogisticRegression(max_iter=1000)", None),
    "ridge": (None, "sklearn.linear_model:Ridge"),
    "knn": ("sklearn.neighbors:KNeighborsClassifier", "sklearn.neighbors:KNeighborsRegressor"),
    "forest": ("sklearn.ensemble:RandomForestClassifier", "sklearn.ensemble:RandomForestRegressor"),
    "boosting": (
        "sklearn.ensemble:HistGradientBoostingClassifier", "sklearn.ensemble:HistGradientBoostingRegressor"
    ),
    "tree": ("sklearn.tree:DecisionTreeClassifier", "sklearn.tree:DecisionTreeRegressor"),
    "bayes": ("sklearn.naive_bayes:GaussianNB", None),
}  # fmt: skip
"""The estimator for classes and that for numbers, by name."""


def estimator_of(name: str, y: NDArray[Any] | None) -> Any:
    """The estimator for these targets: texts and whole numbers are classes. Raises MethodError."""
    if ":" in name:
        return imported(name)
    if name not in NAMES:
        known = nearest(name, NAMES)
        raise MethodError(f"There is no model '{name}'. {known} Or name any estimator as module:Class(parameter=1).")
    numbers = y is not None and np.asarray(y).dtype.kind == "f"
    spec = NAMES[name][1 if numbers else 0]
    if spec is None:
        others = ", ".join(other for other, pair in NAMES.items() if pair[1 if numbers else 0])
        what = "numbers to regress" if numbers else "classes"
        raise MethodError(f"The model '{name}' does not fit labels that are {what}; choose one of: {others}.")
    return imported(spec)


def imported(spec: str) -> Any:
    """`module:Class` or `module:Class(parameter=1)`, with Python literals as parameters; nothing else is evaluated."""
    place, _, call = spec.partition(":")
    expected = "expected module:Class or module:Class(parameter=1), such as sklearn.svm:SVC(C=2.0)"
    try:
        tree = ast.parse(call.strip(), mode="eval").body
        parameters: dict[str, Any] = {}
        if isinstance(tree, ast.Call):
            if tree.args:
                raise ValueError("a parameter without a name")
            parameters = {str(word.arg): ast.literal_eval(word.value) for word in tree.keywords}
            tree = tree.func
        if not isinstance(tree, ast.Name):
            raise ValueError("no class")
        return getattr(importlib.import_module(place), tree.id)(**parameters)
    except (SyntaxError, ValueError, ImportError, AttributeError, TypeError) as error:
        raise MethodError(f"The model '{spec}' cannot be made ({error}); {expected}.") from error
