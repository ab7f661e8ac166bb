"""XGBoost: leaf values from the JSON form of a booster, rows routed by `pred_leaf`.

XGBoost's softmax has the curvature 2 p (1 - p) in its leaves. A model file keeps neither learning rate nor lambda; then
both follow from the leaves and the training rows.
"""

import json
from typing import Any

import numpy as np

from assay.errors import ModelError, require
from assay.methods.trees.ensemble import Boosting, Ensemble, Source
from assay.methods.trees.features import by_name, categorical, numbers, told
from assay.methods.trees.losses import Array, Logistic, Loss, Poisson, Softmax, Squared


class XGBoostSource(Source):
    """A booster and how many of its rounds count."""

    def __init__(self, booster: Any, order: Array, numbers_: list[Array], missing: float) -> None:
        self._booster, self._order, self._numbers, self._missing = booster, order, numbers_, missing

    def columns(self, X: Any) -> Any:
        booster = self._booster
        found = by_name(X, booster.feature_names, booster.num_features(), "XGBoost")
        chosen = self._chosen()
        return categorical(found, chosen) if chosen and hasattr(found, "columns") else numbers(found, "XGBoost")

    def prepare(self, X: Any) -> Any:
        booster, found = self._booster, self.columns(X)
        library: Any = require("xgboost", "trees")
        names: dict[str, Any] = {}
        if not hasattr(found, "columns"):  # a DataFrame brings its own
            names = {"feature_names": booster.feature_names, "feature_types": booster.feature_types}
        categories = bool(self._chosen())
        return told(
            "XGBoost", lambda: library.DMatrix(found, missing=self._missing, enable_categorical=categories, **names)
        )

    def _chosen(self) -> list[int]:
        """Places of categorical features."""
        return [place for place, kind in enumerate(self._booster.feature_types or []) if kind == "c"]

    def leaves(self, prepared: Any) -> Array:
        nodes = told("XGBoost", lambda: self._booster.predict(prepared, pred_leaf=True, strict_shape=True))
        nodes = nodes.reshape(len(nodes), -1).astype(np.int64)
        found = np.empty((*self._order.shape, len(nodes)), np.int32)
        for place, tree in np.ndenumerate(self._order):
            found[place] = self._numbers[tree][nodes[:, tree]]
        return found.transpose(2, 0, 1)

    def output(self, prepared: Any) -> Array:
        return self._booster.predict(prepared, output_margin=True)


def parse(model: Any) -> Ensemble:
    """From a booster or an estimator. Raises ModelError for what cannot be read."""
    booster, estimator = (model, None) if type(model).__name__ == "Booster" else (model.get_booster(), model)
    best = None if estimator is None else getattr(estimator, "best_iteration", None)
    if best is not None and best + 1 < booster.num_boosted_rounds():
        booster = booster[: best + 1]
    learner = json.loads(booster.save_raw("json"))["learner"]
    if learner["gradient_booster"]["name"] != "gbtree":
        name = learner["gradient_booster"]["name"]
        raise ModelError(f"XGBoost's booster '{name}' is not supported: its rounds are not plain trees. Use gbtree.")
    trees = learner["gradient_booster"]["model"]
    loss = _loss(learner)
    outputs = max(1, int(learner["learner_model_param"]["num_class"]))
    if any(int(tree["tree_param"]["size_leaf_vector"]) > 1 for tree in trees["trees"]):
        raise ModelError("XGBoost's multi_strategy 'multi_output_tree' is not supported; use one_output_per_tree.")
    if int(trees["gbtree_model_param"].get("num_parallel_tree", "1")) > 1:
        raise ModelError("XGBoost's num_parallel_tree above 1 (a boosted forest) is not supported.")
    if int(learner["learner_model_param"].get("num_target", "1")) > 1:
        raise ModelError("XGBoost models of several targets are not supported; fit one model for each.")
    order = np.arange(len(trees["trees"])).reshape(-1, outputs)
    leafs = [np.flatnonzero(np.array(tree["left_children"]) == -1) for tree in trees["trees"]]
    flat: list[Array] = [
        np.array(tree["split_conditions"], np.float32)[leaf].astype(np.float64)
        for tree, leaf in zip(trees["trees"], leafs, strict=True)
    ]
    numbering = [_numbered(len(tree["left_children"]), leaf) for tree, leaf in zip(trees["trees"], leafs, strict=True)]
    missing = np.nan if estimator is None else float(estimator.missing)
    classes = _classes(learner, estimator, outputs)
    return Ensemble(
        library=f"XGBoost {require('xgboost', 'trees').__version__}",
        name=type(model).__name__,
        source=XGBoostSource(booster, order, numbering, missing),
        values=[[flat[int(tree)] for tree in round_] for round_ in order],
        start=_start(learner, loss, outputs),
        loss=loss,
        classes=classes,
        boosting=_boosting(booster, learner),
        estimator=estimator,
    )


def _loss(learner: Any) -> Loss:
    name = learner["objective"]["name"]
    if name == "count:poisson":
        delta = float(learner["objective"].get("poisson_regression_param", {}).get("max_delta_step", 0.7))
        return Poisson(scale=float(np.exp(delta)))
    known: dict[str, Loss] = {
        "reg:squarederror": Squared(), "binary:logistic": Logistic(), "binary:logitraw": Logistic(),
        "reg:logistic": Logistic(), "multi:softprob": Softmax(scale=2.0), "multi:softmax": Softmax(scale=2.0),
    }  # fmt: skip
    if name not in known:
        raise ModelError(
            f"XGBoost's objective '{name}' is not supported; expected one of {', '.join([*known, 'count:poisson'])}."
        )
    return known[name]


def _start(learner: Any, loss: Loss, outputs: int) -> Array:
    """The base score, which is stored behind the link."""
    text = str(learner["learner_model_param"]["base_score"]).strip("[]")
    score: Array = np.array(text.split(","), np.float32).astype(np.float64)
    if loss.name == "logistic" and (learner["objective"]["name"] != "binary:logitraw" or 0 < score[0] < 1):
        score = np.log(score / (1 - score))
    if loss.name == "Poisson":
        score = np.log(score)
    return np.broadcast_to(score, (outputs,)).astype(np.float64)


def _boosting(booster: Any, learner: Any) -> Boosting:
    config = json.loads(booster.save_config())["learner"]["gradient_booster"]
    given = config["tree_train_param"]
    weight = float(learner["objective"].get("reg_loss_param", {}).get("scale_pos_weight", 1))
    checks = {
        f"subsample={given.get('subsample')} (row sampling)": float(given.get("subsample", 1)) < 1,
        f"reg_alpha={given.get('alpha')} (L1)": float(given.get("alpha", 0)) != 0,
        "monotone_constraints": any(c not in "(),0 " for c in str(given.get("monotone_constraints", "()"))),
        "process_type update": config.get("gbtree_train_param", {}).get("process_type", "default") != "default",
    }
    refused = next((name for name, wrong in checks.items() if wrong), None)
    poisson = learner["objective"].get("poisson_regression_param", {})
    clip = float(poisson.get("max_delta_step", given.get("max_delta_step", 0))) or np.inf
    return Boosting(None, None, clip=clip, class_weight=(1.0, weight) if weight != 1 else (), refused=refused)


def _classes(learner: Any, estimator: Any, outputs: int) -> Array | None:
    if estimator is not None and hasattr(estimator, "classes_"):
        return np.asarray(estimator.classes_)
    if learner["objective"]["name"].startswith(("binary", "multi")):
        return np.arange(max(2, outputs))
    return None


def _numbered(nodes: int, leaf: Array) -> Array:
    """From a node to its leaf's number."""
    number = np.full(nodes, -1, np.int32)
    number[leaf] = np.arange(len(leaf), dtype=np.int32)
    return number
