"""LeafInfluence: the exact derivative of every leaf value in every row's weight, with splits fixed.

With J_j = df_j/dw_i, the recursion over rounds is, for each leaf,

    dv = -[ 1[i in leaf] s_i (g_i + v h_i)  +  sum over j in leaf of s_j (h_j + v k_j) J_j ] / (Hs + l2)
    J_j += eta dv                 score(i, q) = -g_q  sum over rounds of  eta dv(leaf of q)

with g_q after the last round and k the loss's third derivative; for several outputs h_j J_j is the whole Hessian times
J, cross terms included, while the curvature in the leaf is the library's own.

That is linear in what the row i does, so `all` goes backwards, once for each query and not once for each row. With a_j
the change of the query's loss with f_j, 0 at the end, from the last round to the first

    u = eta [ g_q 1[q in leaf]  +  sum over j in leaf of a_j ] / (Hs + l2)
    score(i, q) += s_i (g_i + v h_i) u(leaf of i),      a_j -= s_j (h_j + v k_j) u(leaf of j)

`single-point` drops J (only the row's own leaves move); `top-k` keeps the sum in the k leaves of each tree that hold
most of |J| (ties all count), as the paper's TopKLeaves: which those are depends on i, and so it goes forwards.

Paper: Sharchilev, Ustinovskiy, Serdyukov and de Rijke 2018, ICML (1802.06640), equations 8 to 11; its algorithm, O(n^2 T)
time, is `top-k`'s. Cost: O(n T) a query; top-k O(n^2 T) and a number for each leaf and row. Assumes fixed splits and a
start that does not depend on i. Deviation from released code, which drops the cross terms of the softmax: they are in.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

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
"""Numbers of J, or of a, held at once by each core."""
LEAST = 16
"""Queries that go back together, however many rows there are: what is one number a row is found once for all of them."""
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
        super().check()
        self.expect(self.leaves >= 1, "leaves", "at least 1")

    def scorer(self, run: Replay) -> Scorer:
        """Backwards from the queries; sparse for single-point; forwards from the rows for top-k."""
        if self.update == "single-point":
            own = np.stack([-run.eta * run.own(r, f).T for r, f in run.walk(run.read)], 1)
            features = by_leaf(run, run.read, own)
            return lambda queries: same_leaf(features, by_leaf(run, queries, gradients_after(run, queries)))
        if self.update == "all":
            before = [f for _, f in run.walk(run.read)]
            return lambda queries: backwards(run, before, queries)
        moved = leaf_derivatives(run, self.leaves)

        def score(queries: Read) -> Float64[np.ndarray, "n_train n_query"]:
            g = by_leaf(run, queries, gradients_after(run, queries))
            return -np.concatenate([(g @ block).T for block in moved])

        return score


def backwards(run: Replay, before: Sequence[Array], queries: Read) -> Float64[np.ndarray, "n_train n_query"]:
    """Scores of all rows, the queries in blocks; `before` are the rows' predictions before each round."""
    width = max(LEAST, BLOCK // (len(run.read) * len(run.start)))
    g = run.loss.gradient(run.final(queries), queries.y)
    blocks = in_blocks(lambda asked: _backwards(run, before, queries, g, asked), len(queries), width, "queries")
    return np.concatenate(blocks, 1)


def _backwards(run: Replay, before: Sequence[Array], queries: Read, g: Array, asked: Array) -> Array:
    read, outputs, places = run.read, len(run.start), np.arange(len(asked))
    a, scores = np.zeros((outputs, len(read), len(asked))), np.zeros((len(read), len(asked)))
    for r in reversed(range(run.rounds)):
        trees, at = run.trees(r), [before[r]]
        v = [np.stack([step.delta[c][tree.leaf, 0] for c, tree in enumerate(trees)]) for step in run.steps[r]]
        for moved in v[:-1]:
            at.append(at[-1] + moved)
        pushed = [tree.sums(part) for tree, part in zip(trees, a, strict=True)]
        for c in range(outputs):
            pushed[c][queries.leaf(r, c)[asked], places] += g[c, asked]
            pushed[c] *= run.eta
        for k in reversed(range(len(v))):
            step = run.steps[r][k]
            u = np.stack([part[tree.leaf] for part, tree in zip(step.solve(pushed), trees, strict=True)])
            for own, part in zip(run.direct(r, step, at[k]), u, strict=True):
                scores += own[:, None] * part
            u = _followed_back(run, at[k], v[k], u)
            a -= u
            if k:  # what follows a row in this step moved with its leaf in the steps before
                pushed = [part - tree.sums(more) for part, tree, more in zip(pushed, trees, u, strict=True)]
    return scores


def _followed_back(run: Replay, f: Array, v: Array, u: Array) -> Array:
    """S (h + v k) u; for one output the factor of u is one number a row."""
    y, weight = run.read.y, run.read.weight[:, None]
    if len(f) == 1:
        u *= weight * run.loss.change(f, y, v, np.ones_like(f))[0][:, None]
        return u
    return weight * run.loss.change_transposed(f[:, :, None], y, v[:, :, None], u)


def leaf_derivatives(run: Replay, top: int) -> list[Float64[np.ndarray, "leaves block"]]:
    """Eta dv/dw_i of every leaf of every tree, for all rows i in blocks. Raises MethodError if they do not fit in memory."""
    n, size = len(run.read), int(run.read.ensemble.sizes.sum())
    check_memory(n, size, "leaf-influence with update='top-k'", "update='all'")
    width = max(1, BLOCK // (n * len(run.start)))
    return in_blocks(lambda rows: _forwards(run, rows, top), n, width, "leaf derivatives")


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


def _forwards(run: Replay, rows: Array, top: int) -> Float64[np.ndarray, "leaves block"]:
    """The derivatives in the weights of some rows, with the sums of only some leaves."""
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


def _followed(run: Replay, f: Array, v: Array, J: Array, trees: list[Tree], top: int) -> list[Array]:
    """Sums over leaves of s (h + v k) J, of the `top` leaves that hold most of |J|."""
    change = run.loss.change(f[:, :, None], run.read.y, v[:, :, None], J)
    sums = [tree.weighted(run.read.weight, change[c]) for c, tree in enumerate(trees)]
    for part, tree, moved in zip(sums, trees, J, strict=True):
        held = tree.sums(np.abs(moved))
        if top < tree.size:
            part[held < np.partition(held, tree.size - top, 0)[tree.size - top]] = 0
    return sums
