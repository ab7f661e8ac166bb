"""LeafRefit: the exact counterfactual with splits fixed.

The run of leaf values is repeated with the weight of row i set to 0: gradients, sums and values of every later round
follow. score(i, q) = L_q(new) - L_q(old). A leaf that loses its only row adds nothing.

Paper: Sharchilev et al. 2018, ICML (1802.06640), where it is called LeafRefit. Cost: O(n^2 T) time, n numbers for each
leaf; the worlds of many rows run at once. Assumes fixed splits and a start that does not depend on i; sums over rows
keep the l2 of the model. Deviation from released code, which compares gradients after a tree with those before it, so
that leaves move with nothing removed: here removing nothing changes nothing.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float64

from assay.methods.trees.base import BoostedMethod, Scorer, over_leaves
from assay.methods.trees.ensemble import Read
from assay.methods.trees.leaf_influence import check_memory, in_blocks
from assay.methods.trees.leaves import Replay, newton
from assay.methods.trees.losses import Array

BLOCK = 2**18
"""Predictions held at once."""


@dataclass(frozen=True)
class LeafRefit(BoostedMethod):
    """Leaf values computed again without a row, splits fixed."""

    name: ClassVar[str] = "leaf-refit"
    summary: ClassVar[str] = "leaf values computed again without a row, splits fixed"
    paper: ClassVar[str] = "Sharchilev et al. 2018 (1802.06640)"

    def scorer(self, run: Replay) -> Scorer:
        """The leaf values of all worlds."""
        values = refitted(run)
        old = np.concatenate([part for r in range(run.rounds) for part in run.added(r)])

        def score(queries: Read) -> Float64[np.ndarray, "n_train n_query"]:
            before = run.loss.value(_predictions(run, queries, old[:, None]), queries.y)
            return np.concatenate([
                (run.loss.value(_predictions(run, queries, part), queries.y) - before).T for part in values
            ])  # fmt: skip

        return score


def refitted(run: Replay) -> list[Float64[np.ndarray, "leaves block"]]:
    """What every leaf of every tree adds in the world without row i, for all i in blocks.

    Raises MethodError for lack of memory.
    """
    n, size = len(run.read), int(run.read.ensemble.sizes.sum())
    check_memory(n, size, "leaf-refit", "leaf-influence with update='single-point'")
    width = max(1, BLOCK // (n * len(run.start)))
    return in_blocks(lambda rows: _worlds(run, rows), n, width, "leaf values without each row")


def _worlds(run: Replay, dropped: Array) -> Float64[np.ndarray, "leaves worlds"]:
    read, found = run.read, list[Array]()
    f = np.tile(run.start[:, None, None], (1, len(read), len(dropped)))
    for r in range(run.rounds):
        trees = run.trees(r)
        v = [np.zeros((tree.size, len(dropped))) for tree in trees]
        for k in range(len(run.steps[r])):
            at = f if k == 0 else f + np.stack([part[tree.leaf] for part, tree in zip(v, trees, strict=True)])
            step = newton(run.loss, at, read.y, read.weight, trees, run.l2[r], dropped, run.clip)
            v = [part + delta for part, delta in zip(v, step.delta, strict=True)]
        for c, tree in enumerate(trees):
            v[c] *= run.eta
            f[c] += v[c][tree.leaf]
            found.append(v[c])
    return np.concatenate(found)


def _predictions(run: Replay, queries: Read, values: Array) -> Float64[np.ndarray, "outputs n_query worlds"]:
    """The queries' predictions with these leaf values [leaves, worlds]."""
    outputs, size = len(run.start), len(values)
    found = np.empty((outputs, len(queries), values.shape[1]))
    for c in range(outputs):
        columns = np.stack([queries.leaf(r, c) + run.offsets[r, c] for r in range(run.rounds)], 1)
        found[c] = over_leaves(columns, np.ones(columns.shape), size) @ values + run.start[c]
    return found
