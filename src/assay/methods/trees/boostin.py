"""BoostIn: TracIn through the rounds of boosting.

    score(i, q) = sum over rounds t of  1[i and q share a leaf]  g_q^t  eta s_i (g_i^t + v h_i^t) / (Hs + l2)

with g^t and h^t derivatives of the loss before round t, v the unscaled value of the leaf, Hs its summed curvature and
s_i the row's sample weight; summed over the outputs. The bracket is -dv/dw_i: how the leaf would move if row i weighed
less, with everything before it fixed. First order: what the other rows would do in later rounds is left out, and so is
the start's dependence on i. Where a leaf takes several Newton steps (CatBoost), dv/dw_i is through all of them.

Paper: Brophy, Hammoudeh and Lowd 2023, JMLR (2205.00359), section 4.1. Cost: O(n T) for a fit; a query costs the rows
that share its leaves. Memory: 16 bytes for each row and tree. Assumes fixed splits. Deviation from the released code:
that multiplies h by the leaf value already scaled with eta.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from assay.methods.trees.base import BoostedMethod, Scorer, by_leaf, gradients_before, same_leaf
from assay.methods.trees.leaves import Replay


@dataclass(frozen=True)
class BoostIn(BoostedMethod):
    """TracIn through boosting rounds; the fast default for trees."""

    name: ClassVar[str] = "boostin"
    summary: ClassVar[str] = "TracIn through the rounds of boosting; the fast default for trees"
    paper: ClassVar[str] = "Brophy, Hammoudeh and Lowd 2023 (2205.00359)"

    def scorer(self, run: Replay) -> Scorer:
        """Sparse features over leaves, one number for each row and tree."""
        moved = np.empty((len(run.read), run.rounds, len(run.start)))
        for r, f in run.walk(run.read):
            moved[:, r] = -run.eta * run.own(r, f).T
        features = by_leaf(run, run.read, moved)
        return lambda queries: same_leaf(features, by_leaf(run, queries, gradients_before(run, queries)))
