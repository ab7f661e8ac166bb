"""The training examples that are most like some of them: what a suspicious row is to be compared with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from jaxtyping import Float64, Int64

from assay.examples import Examples
from assay.methods.retrain.features import numbers_of
from assay.values import Values


@dataclass(frozen=True)
class Near:
    """The `others` nearest to `row`, nearest first, with their Euclidean distances in standardised features."""

    row: int
    others: Sequence[int]
    distances: Sequence[float]


def nearest(train: Examples, rows: Sequence[int] | Int64[np.ndarray, " m"], k: int = 5) -> list[Near]:
    """The k nearest others of each of these rows; categories count as indicators. Empty for text.

    Cost: one distance of each row to all examples; memory O(n) a row.
    """
    if train.kind not in ("arrays", "table") or len(train) < 2:
        return []
    from sklearn import neighbors

    X: Float64[np.ndarray, "n d"] = numbers_of(train.matrix().X)
    chosen, k = np.asarray(rows, dtype=np.int64), min(k, len(train) - 1)
    if not len(chosen):
        return []
    fitted: Any = cast(Any, neighbors).NearestNeighbors(n_neighbors=k + 1).fit(X)
    distances, found = fitted.kneighbors(X[chosen])
    near: list[Near] = []
    for row, apart, others in zip(chosen.tolist(), distances.tolist(), found.tolist(), strict=True):
        pairs = [(other, d) for other, d in zip(others, apart, strict=True) if other != row][:k]
        near.append(Near(row, [other for other, _ in pairs], [d for _, d in pairs]))
    return near


def neighbours(values: Values, train: Examples, top: int) -> list[dict[str, Any]]:
    """What a report shows beside the `top` lowest values: id, text, label and distance of their nearest examples."""
    if len(train) != len(values.array):
        return []
    lowest = np.argsort(values.array, kind="stable")[:top]
    return [
        {
            "id": values.ids[one.row],
            "near": [
                {"id": train.ids[other], "text": train.texts[other], "label": train.labels[other], "distance": apart}
                for other, apart in zip(one.others, one.distances, strict=True)
            ],
        }
        for one in nearest(train, lowest)
    ]
