"""Who the players are: examples, or groups of them by source, label, cluster, or names of your own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from jaxtyping import Int64

from assay.errors import DataError, MethodError
from assay.examples import Examples
from assay.tables import Table

By = str | tuple[str, ...]
NO_SOURCE = "no source"


@dataclass(frozen=True)
class Players:
    """`member[row]` is the player of each training row, None for every row its own; `table` describes the players."""

    table: Table
    member: Int64[np.ndarray, " n"] | None


def players_of(by: By, train: Examples, seed: int) -> Players:
    """The players of the training examples.

    Raises MethodError for an unknown `by`, or names that are not one an example; DataError where there are no sources.
    """
    if by == "example":
        return Players(Table.of(train), None)
    names = _names(by, train, seed)
    distinct = list(dict.fromkeys(names))
    place = {name: k for k, name in enumerate(distinct)}
    member = np.array([place[name] for name in names], dtype=np.int64)
    counts = np.bincount(member, minlength=len(distinct))
    texts = [f"{name}: {count:,} training examples" for name, count in zip(distinct, counts.tolist(), strict=True)]
    rows = np.arange(len(distinct))
    return Players(Table(distinct, distinct, texts, rows, len(distinct), {"examples": counts}), member)


def _names(by: By, train: Examples, seed: int) -> Sequence[str]:
    if isinstance(by, tuple):
        if len(by) != len(train):
            raise MethodError(f"by= names {len(by)} groups for {len(train)} training examples; give one name for each.")
        return by
    if by == "source":
        if all(source is None for source in train.sources):
            raise DataError(f"{train.origin} has no sources; name their column (source_column=, --source-field).")
        return [NO_SOURCE if source is None else source for source in train.sources]
    if by == "label":
        return [str(label) for label in train.labels]
    kind, _, number = by.partition(":")
    if kind == "cluster" and number.isdigit() and 1 <= int(number) <= len(train):
        return [f"cluster {k + 1}" for k in _clusters(train, int(number), seed)]
    raise MethodError(
        f"by={by!r} was given; expected example, source, label or cluster:K (K clusters of the features, at most as many as "
        "examples), or, in Python, one name for each training example."
    )


def _clusters(train: Examples, k: int, seed: int) -> Sequence[int]:
    """By k-means of the standardised features; the largest cluster is the first."""
    from sklearn import cluster

    from assay.methods.retrain.features import numbers_of

    X = numbers_of(train.matrix().X)
    found: Any = cast(Any, cluster).KMeans(k, n_init=4, random_state=seed).fit(X).labels_
    order = np.argsort(-np.bincount(found, minlength=k), kind="stable")
    return np.argsort(order)[found].tolist()
