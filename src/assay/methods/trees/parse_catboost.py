"""CatBoost: leaf values, leaf indexes and parameters as the library gives them.

Bootstrap and feature sampling choose CatBoost's splits only; leaf values use all rows, so such models can be replayed.
Target statistics of categorical features cannot: the training rows were routed by other statistics than predictions are.
"""

import json
import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np

from assay.errors import ModelError, require
from assay.methods.trees.ensemble import Boosting, Ensemble, Source
from assay.methods.trees.features import by_name, numbers, strings, told
from assay.methods.trees.losses import Array, CoupledSoftmax, Logistic, Loss, Poisson, Softmax, Squared


class CatBoostSource(Source):
    """A model and its categorical features."""

    def __init__(self, model: Any) -> None:
        self._model, self._chosen = model, list(model.get_cat_feature_indices())

    def columns(self, X: Any) -> Any:
        names = list(self._model.feature_names_)
        chosen = by_name(X, names, len(names), "CatBoost")
        return strings(chosen, self._chosen) if self._chosen else numbers(chosen, "CatBoost")

    def prepare(self, X: Any) -> Any:
        names, columns = list(self._model.feature_names_), self.columns(X)
        catboost: Any = require("catboost", "trees")
        return told("CatBoost", lambda: catboost.Pool(columns, cat_features=self._chosen or None, feature_names=names))

    def leaves(self, prepared: Any) -> Array:
        return self._model.calc_leaf_indexes(prepared)[:, :, None]

    def output(self, prepared: Any) -> Array:
        return np.asarray(self._model.predict(prepared, prediction_type="RawFormulaVal"))


def parse(model: Any) -> Ensemble:
    """From a model or estimator. Raises ModelError for what cannot be read."""
    given = model.get_all_params()
    if not given:
        raise ModelError(
            "This CatBoost model does not know how it was trained; expected one trained by CatBoost itself."
        )
    loss = _loss(given)
    flat, counts = np.asarray(model.get_leaf_values(), np.float64), np.asarray(model.get_tree_leaf_counts())
    outputs = len(flat) // int(counts.sum())
    parts = np.split(flat.reshape(-1, outputs), np.cumsum(counts)[:-1])
    scale, bias = model.get_scale_and_bias()
    if scale != 1:
        raise ModelError(f"This CatBoost model scales its trees by {scale}; 1 was expected.")
    classes = np.asarray(model.classes_) if len(model.classes_) else None
    trained = type(model).__name__ in ("CatBoostClassifier", "CatBoostRegressor") and model.get_params()
    return Ensemble(
        library=f"CatBoost {require('catboost', 'trees').__version__}",
        name=type(model).__name__,
        source=CatBoostSource(model),
        values=[[np.ascontiguousarray(part[:, c]) for c in range(outputs)] for part in parts],
        start=np.broadcast_to(np.asarray(bias, np.float64), (outputs,)).copy(),
        loss=loss,
        classes=classes,
        boosting=_boosting(model, given),
        estimator=model if trained else None,
    )


def _loss(given: dict[str, Any]) -> Loss:
    name, unit = given["loss_function"].split(":")[0], given["leaf_estimation_method"] == "Gradient"
    several = Softmax(unit=True) if unit else CoupledSoftmax()
    known: dict[str, Loss] = {
        "RMSE": Squared(unit=unit), "Logloss": Logistic(unit=unit), "CrossEntropy": Logistic(unit=unit),
        "MultiClass": several, "Poisson": Poisson(unit=unit),
    }  # fmt: skip
    if name not in known:
        raise ModelError(f"CatBoost's loss '{name}' is not supported; expected one of {', '.join(known)}.")
    return known[name]


def _boosting(model: Any, given: dict[str, Any]) -> Boosting:
    steps, several = int(given.get("leaf_estimation_iterations", 1)), given["loss_function"].startswith("Multi")
    checks = {
        "categorical features by target statistics (set one_hot_max_size to the number of categories, so that they "
        "are one-hot)": _has_statistics(model),
        f"leaf_estimation_method '{given['leaf_estimation_method']}'": given["leaf_estimation_method"]
        not in ("Newton", "Gradient"),
        "leaf_estimation_iterations above 1 with several classes": steps > 1 and several,
        "model_shrink_rate": float(given.get("model_shrink_rate", 0)) != 0,
        "langevin": bool(given.get("langevin", False)),
        "posterior_sampling": bool(given.get("posterior_sampling", False)),
        "auto_class_weights (give class_weights)": given.get("auto_class_weights", "None") != "None",
        "monotone_constraints": any(value != 0 for value in _values(given.get("monotone_constraints"))),
    }
    weights = tuple(float(value) for value in _values(given.get("class_weights")))
    return Boosting(
        float(given["learning_rate"]),
        float(given["l2_leaf_reg"]),
        steps=steps,
        l2_by_weight=True,
        class_weight=weights if any(weight != 1 for weight in weights) else (),
        refused=next((name for name, wrong in checks.items() if wrong), None),
    )


def _values(given: Any) -> list[Any]:
    return list(cast("dict[Any, Any]", given).values()) if isinstance(given, dict) else list(given or [])


def _has_statistics(model: Any) -> bool:
    """Whether a split looks at a target statistic; only the JSON form says so."""
    if not model.get_cat_feature_indices():
        return False
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.json"
        model.save_model(str(path), format="json")
        return bool(json.loads(path.read_text())["features_info"].get("ctrs"))
