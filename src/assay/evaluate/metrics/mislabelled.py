"""Mislabelled examples: are those with a wrong label worth least?

With `wrong[i]`, and examples in order of value, lowest first (ties share their mean rank):

    AUC               = P(value of a wrong example < value of a right one) + P(equal) / 2
    average precision = mean over wrong i of  |{wrong j with value <= value_i}| / |{j with value <= value_i}|
    precision at k    = share of wrong examples among the k of lowest value

A method that knows nothing has AUC 0.5 and the share of wrong examples as the other two. Interval: bootstrap over wrong and
right examples separately (their numbers are given, not drawn); differences with the same draws. Cost: 2,000 sorts-free passes over n.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from assay.errors import MethodError
from assay.evaluate.intervals import RESAMPLES, Interval
from assay.evaluate.metrics.comparison import Comparison, named_values
from assay.values import Values

KINDS = ("auc", "average_precision", "precision")


def mislabelled(
    results: Values | Sequence[Values] | Mapping[str, Values], wrong: Any, k: int | None = None, seed: int = 0
) -> dict[str, Comparison]:
    """`{"auc", "average_precision", "precision"}` of each result for the examples that are `wrong`, bool [n].

    `k`: of the precision; by default as many as are wrong. Raises MethodError: a mask of another shape, none or all wrong,
    constant values, results of different examples.
    """
    named = named_values(results)
    mask = _checked(named, wrong)
    k = int(mask.sum()) if k is None else k
    if not 1 <= k <= len(mask):
        raise MethodError(
            f"Precision at k={k} of {len(mask)} examples was asked for; give k between 1 and {len(mask)}."
        )
    measured = {name: _measure(values.array, mask, k, seed) for name, values in named.items()}
    chance = float(mask.mean())
    labels = ("area under the curve", "average precision", f"precision at {k}")
    found: dict[str, Comparison] = {}
    for position, (kind, label) in enumerate(zip(KINDS, labels, strict=True)):
        rows = {name: (value[position], drawn[position]) for name, (value, drawn) in measured.items()}
        facts = {"wrong": int(mask.sum()), "chance": 0.5 if kind == "auc" else chance}
        found[kind] = _compared(label, rows, int(mask.sum()), facts)
    return found


def _measure(
    values: Float64[np.ndarray, " n"], wrong: Bool[np.ndarray, " n"], k: int, seed: int
) -> tuple[Float64[np.ndarray, " 3"], Float64[np.ndarray, "3 r"]]:
    """The three measures, and on resamples."""
    bad, good, groups = _grouped(values, wrong)
    rng = np.random.default_rng(seed)
    drawn = [
        _of_counts(
            np.bincount(bad[rng.integers(0, len(bad), len(bad))], minlength=groups),
            np.bincount(good[rng.integers(0, len(good), len(good))], minlength=groups),
            k,
        )
        for _ in range(RESAMPLES // 4)
    ]
    return measures(values, wrong, k), np.array(drawn).T


def measures(values: Float64[np.ndarray, " n"], wrong: Bool[np.ndarray, " n"], k: int) -> Float64[np.ndarray, " 3"]:
    """Area under the curve, average precision and precision at `k`; the numbers alone."""
    bad, good, groups = _grouped(values, wrong)
    return _of_counts(np.bincount(bad, minlength=groups), np.bincount(good, minlength=groups), k)


def _grouped(
    values: Float64[np.ndarray, " n"], wrong: Bool[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " w"], Int64[np.ndarray, " r"], int]:
    """Groups of equal values, lowest first: those of the wrong, those of the right, and how many there are."""
    _, group = np.unique(values, return_inverse=True)
    return group[wrong], group[~wrong], int(group.max()) + 1


def _of_counts(
    bad: Float[np.ndarray, " g"] | Any, good: Float[np.ndarray, " g"] | Any, k: int
) -> Float64[np.ndarray, " 3"]:
    """AUC, average precision and precision at k of counts by group, lowest value first; a group counts as a whole."""
    wrong, all_ = np.cumsum(bad), np.cumsum(bad + good)
    auc = (bad * (good.sum() - np.cumsum(good) + good / 2)).sum() / (bad.sum() * good.sum())
    average = (bad * wrong / np.maximum(all_, 1)).sum() / bad.sum()
    at = int(np.searchsorted(all_, k))
    before_wrong, before_all = wrong[at] - bad[at], all_[at] - (bad + good)[at]
    precision = (before_wrong + (k - before_all) * bad[at] / (bad + good)[at]) / k
    return np.array([auc, average, precision], dtype=np.float64)


def _compared(
    metric: str, rows: dict[str, tuple[float, Float64[np.ndarray, " r"]]], n: int, facts: dict[str, Any]
) -> Comparison:
    def interval(value: float, drawn: Float64[np.ndarray, " r"]) -> Interval:
        low, high = np.quantile(drawn, [0.025, 0.975])
        return Interval(float(value), float(low), float(high), n, drawn)

    first, (value, drawn) = next(iter(rows.items()))
    against = {name: interval(value - v, drawn - d) for name, (v, d) in rows.items() if name != first}
    return Comparison(metric, "share", {name: interval(v, d) for name, (v, d) in rows.items()}, against, {}, facts)


def _checked(named: dict[str, Values], wrong: Any) -> Bool[np.ndarray, " n"]:
    first, one = next(iter(named.items()))
    mask = np.asarray(wrong)
    if mask.dtype != np.bool_ or mask.shape != one.array.shape:
        raise MethodError(
            f"Which examples are wrong was given as {mask.dtype} of shape {mask.shape}; a bool array [{len(one.array)}] was "
            "expected, in the order of the training examples."
        )
    if not mask.any() or mask.all():
        raise MethodError(f"{int(mask.sum())} of {len(mask)} examples are wrong; some and not all were expected.")
    for name, values in named.items():
        if list(values.ids) != list(one.ids):
            raise MethodError(f"'{first}' and '{name}' are of different training examples; value the same ones.")
        if values.array.max() == values.array.min():
            raise MethodError(f"'{name}' gives every example the same value, which ranks nothing.")
    return mask
