"""LightGBM: leaf values and parameters from the text form of a booster, rows routed by `pred_leaf`.

The first round's leaves contain the start (boost_from_average). Below a split of many categories against many, lambda is
enlarged by cat_l2; which leaves that holds for shows in their values. A tree that found no split adds nothing.
"""

import re
from typing import Any

import numpy as np

from assay.errors import ModelError, require
from assay.methods.trees.ensemble import Boosting, Ensemble, Source
from assay.methods.trees.features import by_name, categorical, numbers, told
from assay.methods.trees.losses import Array, Logistic, Loss, Poisson, Softmax, Squared


class LightGBMSource(Source):
    """A booster, the number of its rounds that count, and its categorical features."""

    def __init__(self, booster: Any, rounds: int, outputs: int, chosen: list[int]) -> None:
        self._booster, self._rounds, self._outputs, self._chosen = booster, rounds, outputs, chosen

    def columns(self, X: Any) -> Any:
        booster = self._booster
        found = by_name(X, booster.feature_name(), booster.num_feature(), "LightGBM")
        return categorical(found, self._chosen) if booster.pandas_categorical else numbers(found, "LightGBM")

    def leaves(self, prepared: Any) -> Array:
        found = told("LightGBM", lambda: self._booster.predict(prepared, pred_leaf=True, num_iteration=self._rounds))
        return found.reshape(len(prepared), self._rounds, self._outputs)

    def output(self, prepared: Any) -> Array:
        return told("LightGBM", lambda: self._booster.predict(prepared, raw_score=True, num_iteration=self._rounds))


def parse(model: Any) -> Ensemble:
    """From a booster or an estimator. Raises ModelError for what cannot be read."""
    booster, estimator = (model, None) if type(model).__name__ == "Booster" else (model.booster_, model)
    text = booster.model_to_string(num_iteration=booster.best_iteration)
    head, *blocks = re.split(r"\nTree=\d+\n", text)
    blocks[-1:] = [blocks[-1].split("\nend of trees")[0]] if blocks else []
    trees = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks]
    header = dict(line.split("=", 1) for line in head.splitlines() if "=" in line)
    settings = dict(re.findall(r"^\[(\w+): (.*)\]$", text, re.MULTILINE))
    if any(tree.get("is_linear") == "1" for tree in trees):
        raise ModelError("LightGBM's linear_tree is not supported: its leaves are linear models.")
    outputs = int(header["num_tree_per_iteration"])
    loss, rounds = _loss(header.get("objective", "none").split(), settings, outputs), len(trees) // outputs
    if "average_output" in head:
        raise ModelError("LightGBM's boosting 'rf' is not supported; use scikit-learn's random forests.")
    flat = [np.array(tree["leaf_value"].split(), np.float64) for tree in trees]
    chosen = [
        k for k, info in enumerate(header.get("feature_infos", "").split()) if re.fullmatch(r"-?\d+(:-?\d+)*", info)
    ]
    extra = [_extra_l2(tree, float(settings.get("cat_l2", 10))) for tree in trees]
    classes = np.asarray(getattr(estimator, "classes_")) if hasattr(estimator, "classes_") else None  # noqa: B009
    if classes is None and loss.name in ("logistic", "softmax") and header["objective"].split()[0] != "cross_entropy":
        classes = np.arange(max(2, outputs))
    return Ensemble(
        library=f"LightGBM {require('lightgbm', 'trees').__version__}",
        name=type(model).__name__,
        source=LightGBMSource(booster, rounds, outputs, chosen),
        values=[flat[r * outputs : (r + 1) * outputs] for r in range(rounds)],
        start=np.zeros(outputs),
        loss=loss,
        classes=classes,
        boosting=_boosting(settings, trees),
        estimator=estimator,
        extra_l2=[extra[r * outputs : (r + 1) * outputs] for r in range(rounds)],
    )


def _loss(objective: list[str], settings: dict[str, str], outputs: int) -> Loss:
    name, options = objective[0], dict(part.split(":") for part in objective[1:] if ":" in part)
    delta = float(settings.get("poisson_max_delta_step", 0.7))
    known: dict[str, Loss] = {
        "regression": Squared(), "binary": Logistic(), "cross_entropy": Logistic(),
        "multiclass": Softmax(scale=outputs / max(1, outputs - 1)), "poisson": Poisson(scale=float(np.exp(delta))),
    }  # fmt: skip
    if name not in known or "sqrt" in objective or float(options.get("sigmoid", 1)) != 1:
        raise ModelError(
            f"LightGBM's objective '{' '.join(objective)}' is not supported; expected one of {', '.join(known)}, "
            "without sqrt and with sigmoid 1."
        )
    return known[name]


def _boosting(settings: dict[str, str], trees: list[dict[str, str]]) -> Boosting:
    def number(name: str, default: float) -> float:
        return float(settings.get(name) or default)

    bagged = min(number(f"{part}bagging_fraction", 1) for part in ("", "pos_", "neg_")) < 1
    checks = {
        "boosting 'dart'": settings.get("boosting") == "dart",
        "data_sample_strategy 'goss'": "goss" in (settings.get("data_sample_strategy"), settings.get("boosting")),
        "bagging_fraction below 1 (row sampling)": bagged and number("bagging_freq", 0) > 0,
        "lambda_l1": number("lambda_l1", 0) != 0,
        "path_smooth": number("path_smooth", 0) != 0,
        "monotone_constraints": any(part not in ("", "0") for part in settings.get("monotone_constraints", "").split(",")),
        "is_unbalance (give scale_pos_weight)": number("is_unbalance", 0) != 0,
        "use_quantized_grad": number("use_quantized_grad", 0) != 0,
    }  # fmt: skip
    eta, weight = number("learning_rate", 0.1), number("scale_pos_weight", 1)
    folded = number("boost_from_average", 1) != 0 and float(trees[0].get("shrinkage", 1)) == 1
    return Boosting(
        eta,
        number("lambda_l2", 0),
        folded=folded,
        clip=number("max_delta_step", 0) or np.inf,
        class_weight=(1.0, weight) if weight != 1 else (),
        refused=next((name for name, wrong in checks.items() if wrong), None),
    )


def _extra_l2(tree: dict[str, str], cat_l2: float) -> Array:
    """What may be added to each leaf's lambda: cat_l2 below a categorical split, infinity in a tree without a split."""
    leaves = int(tree["num_leaves"])
    if leaves == 1:
        return np.array([np.inf])
    extra = np.zeros(leaves)
    kinds = np.array(tree["decision_type"].split(), np.int64) & 1
    for side in ("left_child", "right_child"):
        child = np.array(tree[side].split(), np.int64)
        below = (child < 0) & (kinds == 1)
        extra[~child[below]] = cat_l2
    return extra
