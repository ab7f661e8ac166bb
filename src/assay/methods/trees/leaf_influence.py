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

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float64

from assay.errors import MethodError
from assay.methods.base import option
from assay.methods.trees.base import BoostedMethod, Scorer, by_leaf, gradients_after, same_leaf
from assay.methods.trees.ensemble import Read
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

        def score(queries: Read) -> Float64[np.ndarray, "n_train n_query"]:
            g = by_leaf(run, queries, gradients_after(run, queries))
            return -np.concatenate([(g @ block).T for block in moved])

        return score


def leaf_derivatives(run: Replay, top: int | None = None) -> list[Float64[np.ndarray, "leaves block"]]:
    """Eta dv/dw_i of every leaf of every tree, for all rows i in blocks. Raises MethodError if they do not fit in memory."""
    n, size = len(run.read), int(run.read.ensemble.sizes.sum())
    check_memory(n, size, "leaf-influence", "update='single-point'")
    width = max(1, BLOCK // (n * len(run.start)))
    if top is None and len(run.start) == 1:
        rounds = _linear(run)
        columns: Callable[[Array], Array] = lambda rows: _linear_columns(run, rounds, rows)  # noqa: E731
    else:
        columns = lambda rows: _columns(run, rows, top)  # noqa: E731
    return in_blocks(columns, n, width, "leaf derivatives")


def in_blocks(columns: Callable[[Array], Array], n: int, width: int, label: str) -> list[Array]:
    """What `columns` gives for each `width` rows of n, in threads: it is numpy and scipy, which run beside each other."""
    blocks, found = [np.arange(first, min(n, first + width)) for first in range(0, n, width)], list[Array]()
    pool = ThreadPoolExecutor(torch.get_num_threads())
    try:
        with task(label, n) as advance:
            for part in pool.map(columns, blocks):
                found.append(part)
                advance(part.shape[1])
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def check_memory(n: int, size: int, method: str, other: str) -> None:
    """Refuse what would take more than `MEMORY`."""
    if 8 * n * size > MEMORY:
        raise MethodError(
            f"{method} keeps a number for each of {size} leaves and {n} rows: {8 * n * size / 2**30:.1f} GiB, and at most "
            f"{MEMORY / 2**30:.0f} GiB are allowed. Choose {other} or boostin, or fewer training rows."
        )


@dataclass(frozen=True, eq=False)
class _Linear:
    """A round with one output, for all rows i: in step k, S_k^T J sums s (h + v k) J over leaves, `within` the factors alone."""

    tree: Tree
    S: Any
    within: Sequence[Float64[np.ndarray, "leaves 1"]]
    pull: Sequence[Float64[np.ndarray, " n"]]
    scale: Sequence[Float64[np.ndarray, "leaves 1"]]


def _linear(run: Replay) -> list[_Linear]:
    """The factor of J_j is one number a row there, so that all steps of a round need one product with J."""
    found = list[_Linear]()
    for r, f in run.walk(run.read):
        (tree,), steps = run.trees(r), run.steps[r]
        slopes, pull = list[Array](), list[Array]()
        for step in steps:
            v = step.delta[0][tree.leaf, 0][None]
            slopes.append(run.read.weight * run.loss.change(f, run.read.y, v, np.ones_like(f))[0])
            pull.append(run.direct(r, step, f)[0])
            f = f + v
        within = [tree.sums(slope[:, None]) for slope in slopes]
        found.append(_Linear(tree, tree.summing(np.stack(slopes)), within, pull, [step.scale[0] for step in steps]))
    return found


def _linear_columns(run: Replay, rounds: list[_Linear], rows: Array) -> Float64[np.ndarray, "leaves block"]:
    """The derivatives in the weights of some rows, for one output."""
    worlds, first = np.arange(len(rows)), 0
    J, grown = np.zeros((2, len(run.read), len(rows)))
    found = np.empty((int(run.read.ensemble.sizes.sum()), len(rows)))
    for round_ in rounds:
        tree, dv = round_.tree, found[first : first + round_.tree.size]
        followed = (round_.S @ J).reshape(-1, tree.size, len(rows))
        for k, sums in enumerate(followed):
            if k:  # the rows have moved with their leaf in the steps before
                sums += round_.within[k] * dv
            sums[tree.leaf[rows], worlds] += round_.pull[k][rows]
            sums *= -round_.scale[k]
            np.copyto(dv, sums) if k == 0 else np.add(dv, sums, out=dv)
        dv *= run.eta
        np.add(J, np.take(dv, tree.leaf, 0, out=grown, mode="clip"), out=J)
        first += tree.size
    return found


def _columns(run: Replay, rows: Array, top: int | None) -> Float64[np.ndarray, "leaves block"]:
    """The same for several outputs, or with the sums of only some leaves."""
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
    """Sums over leaves of s (h + v k) J, of the leaves that hold most of |J| if `top` says how many."""
    change = run.loss.change(f[:, :, None], run.read.y, v[:, :, None], J)
    sums = [tree.weighted(run.read.weight, change[c]) for c, tree in enumerate(trees)]
    if top is None:
        return sums
    for part, tree, moved in zip(sums, trees, J, strict=True):
        held = tree.sums(np.abs(moved))
        if top < tree.size:
            part[held < np.partition(held, tree.size - top, 0)[tree.size - top]] = 0
    return sums
