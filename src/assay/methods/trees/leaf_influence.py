"""LeafInfluence: the exact derivative of every leaf value in every row's weight, with splits fixed.

With J_j = df_j/dw_i, the recursion over rounds is, for each leaf,

    dv = -[ 1[i in leaf] s_i (g_i + v h_i)  +  sum over j in leaf of s_j (h_j + v k_j) J_j ] / (Hs + l2)
    J_j += eta dv                 score(i, q) = -g_q  sum over rounds of  eta dv(leaf of q)

with g_q after the last round and k the loss's third derivative; for several outputs h_j J_j is the whole Hessian times
J, cross terms included, while the curvature in the leaf is the library's own. For all rows i at once J is [n, n], in
blocks of columns; a leaf's sum is a sparse product.

`single-point` drops J (only the row's own leaves move); `top-k` keeps the sum in the k leaves of each tree that hold
most of |J| (ties all count), as the paper's TopKLeaves; `all` is exact.

Paper: Sharchilev, Ustinovskiy, Serdyukov and de Rijke 2018, ICML (1802.06640), equations 8 to 11. Cost: O(n^2 T) time
and n numbers for each leaf; single-point O(n T). Assumes fixed splits and a start that does not depend on i. Deviation
from released code, which drops the cross terms of the softmax: they are in.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float64

from assay.errors import MethodError
from assay.methods.base import option
from assay.methods.trees.base import BoostedMethod, Scorer, by_leaf, gradients_after, same_leaf
from assay.methods.trees.leaves import Replay, Tree
from assay.methods.trees.losses import Array
from assay.progress import task

BLOCK = 2**18
"""Numbers of J held at once."""
MEMORY = 2**31
"""Bytes that the leaves' derivatives may take."""


@dataclass(frozen=True)
class LeafInfluence(BoostedMethod):
    """Exact derivative of the leaf values in a row's weight, with splits fixed."""

    name: ClassVar[str] = "leaf-influence"
    summary: ClassVar[str] = "exact derivative of all leaf values in a row's weight, splits fixed"
    paper: ClassVar[str] = "Sharchilev et al. 2018 (1802.06640)"

    update: str = option("all", "which leaves follow the change of predictions", ("all", "top-k", "single-point"))
    leaves: int = option(1, "with update top-k: how many leaves of each tree")

    def check(self) -> None:
        """At least one leaf."""
        self.expect(self.leaves >= 1, "leaves", "at least 1")

    def scorer(self, run: Replay) -> Scorer:
        """Features over leaves: sparse for single-point, dense otherwise."""
        if self.update == "single-point":
            own = np.stack([-run.eta * run.own(r, f).T for r, f in run.walk(run.read)], 1)
            features = by_leaf(run, run.read, own)
            return lambda queries: same_leaf(features, by_leaf(run, queries, gradients_after(run, queries)))
        moved = leaf_derivatives(run, self.leaves if self.update == "top-k" else None)
        return lambda queries: -(by_leaf(run, queries, gradients_after(run, queries)) @ moved).T


def leaf_derivatives(run: Replay, top: int | None = None) -> Float64[np.ndarray, "leaves n"]:
    """Eta dv/dw_i of every leaf of every tree, for all rows i. Raises MethodError if that does not fit in memory."""
    n, size = len(run.read), int(run.read.ensemble.sizes.sum())
    check_memory(n, size, "leaf-influence", "update='single-point'")
    found = np.empty((size, n))
    block = max(1, BLOCK // (n * len(run.start)))
    with task("leaf derivatives", n) as advance:
        for first in range(0, n, block):
            rows = np.arange(first, min(n, first + block))
            found[:, rows] = _columns(run, rows, top)
            advance(len(rows))
    return found


def check_memory(n: int, size: int, method: str, other: str) -> None:
    """Refuse what would take more than `MEMORY`."""
    if 8 * n * size > MEMORY:
        raise MethodError(
            f"{method} keeps a number for each of {size} leaves and {n} rows: {8 * n * size / 2**30:.1f} GiB, and at most "
            f"{MEMORY / 2**30:.0f} GiB are allowed. Choose {other} or boostin, or fewer training rows."
        )


def _columns(run: Replay, rows: Array, top: int | None) -> Float64[np.ndarray, "leaves block"]:
    """The derivatives in the weights of some rows."""
    read, outputs, worlds = run.read, len(run.start), np.arange(len(rows))
    J, found = np.zeros((outputs, len(read), len(rows))), list[Array]()
    grown = np.empty(J.shape[1:])
    for r, f in run.walk(read):
        trees = run.trees(r)
        dv = [np.zeros((tree.size, len(rows))) for tree in trees]
        for k, step in enumerate(run.steps[r]):
            moved = J if k == 0 else J + np.stack([part[tree.leaf] for part, tree in zip(dv, trees, strict=True)])
            v = np.stack([step.delta[c][tree.leaf, 0] for c, tree in enumerate(trees)])
            sums = _followed(run, f, v, moved, trees, top)
            pull = run.direct(r, step, f)
            for c, tree in enumerate(trees):
                sums[c][tree.leaf[rows], worlds] += pull[c, rows]
            dv = [part - more for part, more in zip(dv, step.solve(sums), strict=True)]
            f = f + v
        for c, tree in enumerate(trees):
            dv[c] *= run.eta
            J[c] += np.take(dv[c], tree.leaf, 0, out=grown, mode="clip")
            found.append(dv[c])
    return np.concatenate(found)


def _followed(run: Replay, f: Array, v: Array, J: Array, trees: list[Tree], top: int | None) -> list[Array]:
    """Sums over leaves of s (h + v k) J."""
    read, loss = run.read, run.loss
    if len(trees) == 1:  # one number a row, so no array of the size of J is made
        slope = read.weight * loss.change(f, read.y, v, np.ones_like(f))[0]
        sums = [trees[0].weighted(slope, J[0])]
    else:
        change = loss.change(f[:, :, None], read.y, v[:, :, None], J)
        sums = [tree.weighted(read.weight, change[c]) for c, tree in enumerate(trees)]
    if top is None:
        return sums
    for part, tree, moved in zip(sums, trees, J, strict=True):
        held = tree.sums(np.abs(moved))
        if top < tree.size:
            part[held < np.partition(held, tree.size - top, 0)[tree.size - top]] = 0
    return sums
