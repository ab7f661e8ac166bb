"""scikit-learn: HistGradientBoosting, GradientBoosting, and forests of decision trees.

A hist predictor has no public way to name a row's leaf: a copy of it is made whose leaves hold their numbers, and asked
to predict. A forest's margins are log odds of its votes with one vote more for each class, which keeps them finite.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from assay.errors import ModelError
from assay.methods.trees.ensemble import Boosting, Ensemble, Source
from assay.methods.trees.features import by_name, categorical, numbers, told
from assay.methods.trees.losses import Array, Logistic, Loss, Poisson, Softmax, Squared


def parse(model: Any) -> Ensemble:
    """From a fitted estimator. Raises ModelError for other estimators and settings."""
    kinds: dict[str, Callable[[Any], Ensemble]] = {
        "HistGradientBoosting": _hist, "GradientBoosting": _classic, "RandomForest": _forest, "ExtraTrees": _forest,
    }  # fmt: skip
    names = [kind.__name__ for kind in type(model).__mro__]
    for prefix, parse_kind in kinds.items():
        if any(name.removesuffix("Classifier").removesuffix("Regressor") == prefix for name in names):
            if not hasattr(model, "n_features_in_"):
                raise ModelError(f"The {type(model).__name__} is not fitted; call fit first.")
            return parse_kind(model)
    raise ModelError(
        f"{type(model).__name__} is no tree ensemble that can be read; expected {', '.join(kinds)} of scikit-learn, or a "
        "model of XGBoost, LightGBM or CatBoost. Give the last step of a pipeline, and the features as they reach it."
    )


class _Estimator(Source):
    """What the three kinds share."""

    def __init__(self, model: Any) -> None:
        self._model = model
        names = getattr(model, "feature_names_in_", None)
        self._names = None if names is None else [str(name) for name in names]

    def columns(self, X: Any) -> Any:
        found = by_name(X, self._names, self._model.n_features_in_, "scikit-learn")
        if self._names is None:
            return numbers(found, "scikit-learn")
        return found if hasattr(found, "columns") else _frame(found, self._names)

    def output(self, prepared: Any) -> Array:
        model = self._model
        if hasattr(model, "decision_function"):
            return told("scikit-learn", lambda: model.decision_function(prepared))
        if hasattr(model, "predict_proba"):
            return told("scikit-learn", lambda: model.predict_proba(prepared))
        found = told("scikit-learn", lambda: model.predict(prepared))
        return np.log(found) if getattr(model, "loss", None) == "poisson" else found


class _HistSource(_Estimator):
    def columns(self, X: Any) -> Any:
        found = super().columns(X)
        chosen = getattr(self._model, "is_categorical_", None)
        return categorical(found, []) if chosen is not None and hasattr(found, "columns") else found

    def leaves(self, prepared: Any) -> Array:
        model = self._model
        X = told("scikit-learn", lambda: model._preprocess_X(prepared, reset=False))
        known, places = model._bin_mapper.make_known_categories_bitsets()
        columns = [
            [_numbering(tree).predict(X, known, places, 1) for tree in round_] for round_ in model._predictors
        ]  # fmt: skip
        return np.array(columns).transpose(2, 0, 1)


class _ApplySource(_Estimator):
    def __init__(self, model: Any, trees: Any) -> None:
        super().__init__(model)
        self._numbers = [[_numbered(tree.tree_) for tree in round_] for round_ in trees]

    def leaves(self, prepared: Any) -> Array:
        nodes = np.asarray(told("scikit-learn", lambda: self._model.apply(prepared))).astype(np.int64)
        nodes = nodes.reshape(len(nodes), len(self._numbers), -1)
        found = np.empty(nodes.shape, np.int32)
        for r, round_ in enumerate(self._numbers):
            for c, number in enumerate(round_):
                found[:, r, c] = number[nodes[:, r, c]]
        return found


def _hist(model: Any) -> Ensemble:
    loss = _loss(model, len(getattr(model, "classes_", ())), 1.0)
    values = [
        [tree.nodes["value"][tree.nodes["is_leaf"] == 1].copy() for tree in round_] for round_ in model._predictors
    ]
    constraints = model.monotonic_cst
    checks = {
        "early_stopping with held-out rows (set early_stopping=False, or validation_fraction=None)": (
            model.do_early_stopping_ and model.validation_fraction is not None
        ),
        "monotonic_cst": constraints is not None and (isinstance(constraints, dict) or bool(np.any(constraints))),
    }
    return Ensemble(
        library=_library(),
        name=type(model).__name__,
        source=_HistSource(model),
        values=values,
        start=np.asarray(model._baseline_prediction, np.float64).ravel(),
        loss=loss,
        classes=np.asarray(model.classes_) if hasattr(model, "classes_") else None,
        boosting=Boosting(
            model.learning_rate,
            model.l2_regularization,
            class_weight=_class_weight(model),
            refused=next((name for name, wrong in checks.items() if wrong), None),
        ),
        estimator=model,
    )


def _classic(model: Any) -> Ensemble:
    classes = len(getattr(model, "classes_", ()))
    loss = _loss(model, classes, classes / (classes - 1) if classes > 2 else 1.0)
    trees = model.estimators_
    values = [
        [tree.tree_.value[_leaves(tree.tree_), 0, 0] * model.learning_rate for tree in round_] for round_ in trees
    ]
    return Ensemble(
        library=_library(),
        name=type(model).__name__,
        source=_ApplySource(model, trees),
        values=values,
        start=_classic_start(model, trees.shape[1]),
        loss=loss,
        classes=np.asarray(model.classes_) if classes else None,
        boosting=Boosting(
            model.learning_rate, 0.0, refused="subsample below 1 (row sampling)" if model.subsample < 1 else None
        ),
        estimator=model,
    )


def _classic_start(model: Any, outputs: int) -> Array:
    """Of the prior that the boosting began with."""
    init = model.init_
    if isinstance(init, str):
        return np.zeros(outputs)
    if hasattr(init, "class_prior_"):
        logs = np.log(init.class_prior_)
        return logs[1:] - logs[:1] if outputs == 1 else logs - logs.mean()
    if hasattr(init, "constant_"):
        return np.asarray(init.constant_, np.float64).ravel()
    raise ModelError(f"GradientBoosting's init={type(init).__name__} is not supported; use the prior or 'zero'.")


def _forest(model: Any) -> Ensemble:
    if model.n_outputs_ > 1:
        raise ModelError(f"{type(model).__name__} of several targets is not supported; fit one for each.")
    classes = np.asarray(model.classes_) if hasattr(model, "classes_") else None
    trees = [[tree] for tree in model.estimators_]
    votes, values = len(trees), list[list[Array]]()
    for (tree,) in trees:
        value = tree.tree_.value[_leaves(tree.tree_), 0, :]
        value = value if classes is None else value / value.sum(1, keepdims=True)
        values.append([np.ascontiguousarray(column) for column in value.T])
    outputs = 1 if classes is None else len(classes)

    def margin(output: Array) -> Array:
        if classes is None:
            return output.T
        logs = np.log((votes * output.T + 1) / (votes + outputs))
        return logs[1:] - logs[:1] if outputs == 2 else logs

    loss: Loss = Squared() if classes is None else Logistic() if outputs == 2 else Softmax()
    return Ensemble(
        library=_library(),
        name=type(model).__name__,
        source=_ApplySource(model, trees),
        values=values,
        start=np.zeros(outputs),
        loss=loss,
        classes=classes,
        boosting=None,
        estimator=model,
        forest_margin=margin,
    )


def _loss(model: Any, classes: int, scale: float) -> Loss:
    known: dict[str, Loss] = {
        "squared_error": Squared(), "poisson": Poisson(), "log_loss": Softmax(scale=scale) if classes > 2 else Logistic()
    }  # fmt: skip
    if model.loss not in known:
        raise ModelError(
            f"The loss '{model.loss}' of {type(model).__name__} is not supported; expected one of {', '.join(known)}."
        )
    return known[model.loss]


def _library() -> str:
    import sklearn  # not at the top: importing assay stays light

    return f"scikit-learn {sklearn.__version__}"


def _class_weight(model: Any) -> tuple[float, ...]:
    given = getattr(model, "class_weight", None)
    if given is None:
        return ()
    if isinstance(given, str):
        raise ModelError(f"class_weight='{given}' is not supported; give the weights as a dict, or as sample_weight.")
    from sklearn.utils import class_weight  # not at the top: importing assay stays light

    return tuple(cast(Any, class_weight).compute_class_weight(given, classes=model.classes_, y=model.classes_).tolist())


def _frame(X: Any, names: list[str]) -> Any:
    import pandas

    return pandas.DataFrame(X, columns=names)


def _numbering(tree: Any) -> Any:
    """A copy of a hist predictor whose leaves hold their numbers."""
    nodes = tree.nodes.copy()
    leaf = nodes["is_leaf"] == 1
    nodes["value"][leaf] = np.arange(leaf.sum())
    return type(tree)(nodes, tree.binned_left_cat_bitsets, tree.raw_left_cat_bitsets)


def _leaves(tree: Any) -> Array:
    return np.flatnonzero(tree.children_left == -1)


def _numbered(tree: Any) -> Array:
    number = np.full(tree.node_count, -1, np.int32)
    number[_leaves(tree)] = np.arange(len(_leaves(tree)), dtype=np.int32)
    return number
