"""A tree method at fits without a share of the rows, its scores averaged: splits move, and no single fit tells how.

    score(i, q) = mean over the fits k that have row i of  score_k(i, q)

A method with fixed splits follows a removed row through one ensemble's leaves. Removing many rows moves the splits as well;
a mean over ensembles grown on random subsets of the size that is asked about sees more of what may happen. Rows are left
out in turn, by permutation after permutation, so that all are left out equally often.

The same question as `assay.methods.centre` answers for gradients. Cost: a fit and the method for each centre.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int

from assay.errors import MethodError, ModelError
from assay.examples import Examples
from assay.methods.base import Fitted
from assay.methods.centre import STREAM
from assay.progress import progress
from assay.provenance import measured
from assay.ranking import TopK
from assay.scores import Scores
from assay.training import EstimatorRecipe

REMOVED = "share of the rows that the question removes, 0 to below 1; with an EstimatorRecipe, scores are taken there"
CENTRES = "fits without such a share, whose scores are averaged; 1 fit to all where nothing is removed"


def kept_rows(n: int, removed: float, centres: int, seed: int) -> list[Int[np.ndarray, " kept"]]:
    """Which rows each fit has. Raises MethodError if some row would be in none."""
    rng, out = np.random.default_rng((seed, STREAM)), min(n - 1, max(1, round(n * removed)))
    stream = np.concatenate([rng.permutation(n) for _ in range(-(-centres * out // n))])
    kept = [np.setdiff1d(np.arange(n), stream[k * out : (k + 1) * out]) for k in range(centres)]
    missing = n - len(np.unique(np.concatenate(kept)))
    if missing:
        raise MethodError(
            f"With removed={removed:g} and centres={centres}, {missing} of {n} rows would be in no fit and get no score. Give "
            f"more centres, {round(2 / (1 - removed))} or more."
        )
    return kept


@dataclass(frozen=True)
class Without(Fitted):
    """A method fitted anew at each fit when it scores, so that one is in memory at a time."""

    recipe: EstimatorRecipe
    train: Examples
    kept: list[Int[np.ndarray, " kept"]]
    fit: Callable[[Any, Examples], Fitted]

    def score(self, queries: Examples, top: int | None = None) -> Scores:
        """The mean over the fits that have the row."""
        total, count = np.zeros((len(self.train), len(queries))), np.zeros((len(self.train), 1))
        first: Scores | None = None
        with measured() as cost:
            for rows in progress(self.kept, "fits without a share of the rows", len(self.kept)):
                part = self.train.select(rows)
                estimator = self.recipe.train(part).estimator
                if estimator is None:
                    raise ModelError(
                        "A random part of the rows has one class only; remove fewer (removed=), or balance them."
                    )
                scores = self.fit(estimator, part).score(queries)
                total[rows] += scores.array
                count[rows] += 1
                first = first or scores
        mean = (total / count).astype(np.float32)
        entries = mean if top is None else TopK.of_columns(iter(mean.T), top)
        assert first is not None
        told = first.provenance
        provenance = replace(
            told,
            inputs={
                "recipe": type(self.recipe.estimator).__name__,
                "train": self.train.origin,
                "queries": queries.origin,
            },
            model_fingerprint=None,
            train_fingerprint=self.train.fingerprint(),
            seconds=cost.seconds,
            peak_memory=cost.peak_memory,
            notes=(f"Mean over {len(self.kept)} fits, each without a share of the rows; the first:", *told.notes),
        )
        return Scores.of(entries, self.train, queries, provenance)
