"""Tree similarity: how often do two rows fall into the same leaf, and do their labels agree?

    score(i, q) = a(i, q)  sum over trees of  1[i and q share a leaf] w(leaf)

with w = 1 / (training rows of the leaf) / (number of trees) (`count`: a small leaf says more) or w = 1 / (number of trees)
(`equal`, the proximity of random forests). a is 1 for equal classes and -1 for different ones; for numbers it says whether
both labels lie on the same side of the prediction for q.

Paper: Breiman's proximities (random forests, 2001); with the sign of agreement as LeafSim and the similarity baseline of
Brophy, Hammoudeh and Lowd 2023 (2205.00359). Cost: O(n T) for a fit; a query costs the rows that share its leaves. It
needs no gradients, so any ensemble will do, random forests too. It measures similarity, not influence.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float64

from assay.methods.base import option
from assay.methods.trees.base import Scorer, TreeMethod, over_leaves, same_leaf
from assay.methods.trees.ensemble import Read


@dataclass(frozen=True)
class TreeSimilarity(TreeMethod):
    """Share of trees in which two rows fall into the same leaf, signed by agreement of labels."""

    name: ClassVar[str] = "tree-similarity"
    unit: ClassVar[str] = "arbitrary"
    summary: ClassVar[str] = "shared leaves, signed by agreement of labels; for forests too"
    paper: ClassVar[str] = "Breiman 2001; Brophy, Hammoudeh and Lowd 2023 (2205.00359)"

    kernel: str = option("count", "what a shared leaf counts: equal, or one over its training rows", ("equal", "count"))

    def prepare(self, read: Read) -> tuple[Scorer, Callable[[], tuple[str, ...]]]:
        """One-hot leaves."""
        columns, size = tree_columns(read)
        leaf = (
            1 / np.maximum(np.bincount(columns.ravel(), minlength=size), 1) if self.kernel == "count" else np.ones(size)
        )
        features = over_leaves(columns, leaf[columns] / columns.shape[1], size)

        def score(queries: Read) -> Float64[np.ndarray, "n_train n_query"]:
            theirs, _ = tree_columns(queries)
            return same_leaf(features, over_leaves(theirs, np.ones(theirs.shape), size)) * _agreement(read, queries)

        return score, lambda: ()


def tree_columns(read: Read) -> tuple[np.ndarray, int]:
    """The number of each row's leaf among the leaves of all trees, [n, trees], and how many leaves there are."""
    sizes = read.ensemble.sizes[:, : read.leaves.shape[2]].ravel()
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return read.leaves.reshape(len(read), -1) + starts[:-1], int(starts[-1])


def _agreement(read: Read, queries: Read) -> Float64[np.ndarray, "n_train n_query"]:
    if read.ensemble.classes is not None:
        return np.where(read.y[:, None] == queries.y[None], 1.0, -1.0)
    ensemble = read.ensemble
    predicted = ensemble.loss.gradient(ensemble.margin(queries.output), np.zeros(len(queries)))[0]  # behind the link
    return np.sign((read.y[:, None] - predicted) * (queries.y - predicted))
