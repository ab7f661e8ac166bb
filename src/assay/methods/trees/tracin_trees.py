"""TracIn for boosting: the plain functional gradient, BoostIn without its curvature term.

    score(i, q) = sum over rounds t of  1[i and q share a leaf]  g_q^t  eta s_i g_i^t / (Hs + l2)

Paper: the ablation of BoostIn in Brophy, Hammoudeh and Lowd 2023 (2205.00359); the form without curvature is our
reconstruction. It equals BoostIn where v h = 0. For the squared loss h = 1, and the term left out is not small. With
several Newton steps in a leaf it takes the first. Cost as BoostIn.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from assay.methods.trees.base import BoostedMethod, Scorer, by_leaf, gradients_before, same_leaf
from assay.methods.trees.leaves import Replay


@dataclass(frozen=True)
class TracInTrees(BoostedMethod):
    """TracIn on functional gradients, without curvature."""

    name: ClassVar[str] = "tracin-trees"
    unit: ClassVar[str] = "arbitrary"
    summary: ClassVar[str] = "TracIn on the functional gradients of boosting, without curvature"
    paper: ClassVar[str] = "Brophy, Hammoudeh and Lowd 2023 (2205.00359), ablation"

    def scorer(self, run: Replay) -> Scorer:
        """Sparse features over leaves."""
        read, pulls = run.read, np.empty((len(run.read), run.rounds, len(run.start)))
        for r, f in run.walk(read):
            g = read.weight * run.loss.gradient(f, read.y)
            pulls[:, r] = run.eta * run.steps[r][0].solve_rows(run.trees(r), g).T
        features = by_leaf(run, read, pulls)
        return lambda queries: same_leaf(features, by_leaf(run, queries, gradients_before(run, queries)))
