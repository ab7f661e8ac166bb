"""Flag the examples of least value, with what speaks for it."""

from typing import Any, cast

import numpy as np
import pandas as pd

from assay.act.clean.neighbours import nearest
from assay.errors import InputError
from assay.examples import Examples
from assay.values import Values

NEIGHBOURS = 10


def flag(values: Values, train: Examples | None = None, share: float = 0.1, below: float | None = None) -> pd.DataFrame:
    """The lowest `share` of the examples, lowest first; with `below`, only those whose value is less than that.

    Columns row (position in the training data), train_id, rank (1 is the lowest), value, stderr and lowest (the probability
    to be among as many lowest, both if values have a standard error), label, and why, in words. With the training data,
    `same_label` is the share of the ten nearest examples that have the same label, for rows of numbers and categories.

    Raises InputError for a share outside 0 to 1, values of groups, or data that are not those of the values.
    """
    n = len(values.array)
    if not 0 < share <= 1:
        raise InputError(f"A share of {share} was given; expected more than 0 and at most 1, such as 0.1 or 10%.")
    if train is not None and list(train.ids) != list(values.ids):
        raise InputError("The training data have other ids than the values; give the data that were valued.")
    order = np.argsort(values.array, kind="stable")[: max(1, round(share * n))]
    if below is not None:
        order = order[values.array[order] < below]
    frame = pd.DataFrame({"row": order, "train_id": [values.ids[k] for k in order.tolist()]})
    frame["rank"] = np.arange(1, len(order) + 1)
    frame["value"] = values.array[order]
    if values.stderr is not None and len(order):
        frame["stderr"] = values.stderr[order]
        frame["lowest"] = values.confidence(len(order))["lowest"].to_numpy()[order]
    if train is not None:
        frame["label"] = pd.Series([train.labels[k] for k in order.tolist()], dtype=object)
        same = _same_label(train, order)
        if same is not None:
            frame["same_label"] = same
    frame["why"] = pd.Series([_why(cast(dict[str, Any], row), n) for row in frame.to_dict("records")], dtype=object)
    return frame


def _same_label(train: Examples, rows: np.ndarray) -> list[float] | None:
    near = nearest(train, rows, NEIGHBOURS)
    if not near or train.labels[0] is None:
        return None
    return [float(np.mean([train.labels[other] == train.labels[one.row] for other in one.others])) for one in near]


def _why(row: dict[str, Any], n: int) -> str:
    """One sentence."""
    error = f" ± {row['stderr']:.2g}" if "stderr" in row else ""
    told = [f"value {row['value']:+.4g}{error}, rank {row['rank']} from below of {n:,}"]
    if "lowest" in row:
        told.append(f"among the lowest with probability {row['lowest']:.0%}")
    if "same_label" in row:
        told.append(f"{row['same_label']:.0%} of its nearest examples share its label '{row['label']}'")
    return "; ".join(told)
