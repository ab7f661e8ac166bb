"""What the tree methods share: read the model, route the rows, score blocks of queries; sparse features over leaves."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
from jaxtyping import Float, Float64, Int
from scipy import sparse as scipy_sparse

from assay.examples import Examples
from assay.methods.base import Fitted, Method, option
from assay.methods.streamed import Streamed
from assay.methods.trees.ensemble import Read
from assay.methods.trees.leaves import Replay, replay
from assay.methods.trees.load import load_ensemble
from assay.methods.trees.without import CENTRES, REMOVED, Without, kept_rows
from assay.provenance import measured
from assay.training import EstimatorRecipe

sparse = cast(Any, scipy_sparse)
NATS = "nats of query loss per removed example"
Scorer = Callable[[Read], Float[np.ndarray, "n_train n_query"]]
"""Scores of all training rows for some queries."""


@dataclass(frozen=True)
class TreeMethod(Method):
    """A method for tree ensembles; the model is an estimator, a booster or a file."""

    family: ClassVar[str] = "trees"

    def fit(self, model: Any, train: Examples) -> Fitted:
        """Read the model and prepare what depends on the training rows. Raises ModelError or DataError.

        An EstimatorRecipe is fitted first.
        """
        with measured() as cost:
            model = model.train(train).estimator if isinstance(model, EstimatorRecipe) else model
            ensemble = load_ensemble(model, self.name).named(train)
            read = ensemble.read(train, "training rows")
            scorer, notes = self.prepare(read)
        fidelity = (
            f"Prediction from the parsed trees against {ensemble.library}: differs by at most {read.difference:.1e}."
        )
        return Streamed(
            self, train, lambda queries: scorer(ensemble.read(queries, "queries")), cost.seconds, ensemble,
            lambda queries: (fidelity, *notes()),
        )  # fmt: skip

    @abstractmethod
    def prepare(self, read: Read) -> tuple[Scorer, Callable[[], tuple[str, ...]]]:
        """From the training rows: what scores queries, and what there is to tell afterwards."""


@dataclass(frozen=True)
class BoostedMethod(TreeMethod):
    """A method that replays gradient boosting."""

    unit: ClassVar[str] = NATS

    removed: float = option(0.0, REMOVED)
    centres: int = option(20, CENTRES)

    def check(self) -> None:
        """The question and the number of fits."""
        self.expect(0 <= self.removed < 1, "removed", "a share of at least 0 and below 1")
        self.expect(self.centres >= 2, "centres", "2 or more")

    def fit(self, model: Any, train: Examples) -> Fitted:
        """At the model, or, with rows removed, at fits of the recipe without them."""
        if self.removed == 0:
            return super().fit(model, train)
        if not isinstance(model, EstimatorRecipe):
            self.expect(
                False, "removed", f"0 with a {type(model).__name__}, or assay.EstimatorRecipe(estimator) as the model"
            )
        kept = kept_rows(len(train), self.removed, self.centres, model.seed)
        return Without(model, train, kept, super().fit)

    def prepare(self, read: Read) -> tuple[Scorer, Callable[[], tuple[str, ...]]]:
        """Replay, then what the method makes of it."""
        run = replay(read, self.name)
        scorer = self.scorer(run)
        return scorer, lambda: run.notes

    @abstractmethod
    def scorer(self, run: Replay) -> Scorer:
        """What scores queries."""


def over_leaves(columns: Int[np.ndarray, "n trees"], data: Float64[np.ndarray, "n trees"], size: int) -> Any:
    """A sparse matrix [n, size] with one entry for each row and tree, in the column of the row's leaf."""
    n, trees = columns.shape
    indptr = cast(Any, np.arange(0, n * trees + 1, trees))
    return sparse.csr_matrix((data.ravel(), columns.ravel(), indptr), shape=(n, size))


def leaf_columns(run: Replay, read: Read) -> Int[np.ndarray, "n trees"]:
    """The number of each row's leaf among the leaves of all trees and outputs."""
    return (read.leaves + run.offsets[None]).reshape(len(read), -1)


def by_leaf(run: Replay, read: Read, data: Float64[np.ndarray, "n rounds outputs"]) -> Any:
    """Numbers of rows by round and output, as a sparse matrix [n, leaves of all trees]."""
    return over_leaves(leaf_columns(run, read), data.reshape(len(read), -1), int(read.ensemble.sizes.sum()))


def gradients_before(run: Replay, read: Read) -> Float64[np.ndarray, "n rounds outputs"]:
    """G of rows before each round."""
    found = np.empty((len(read), run.rounds, len(run.start)))
    for r, f in run.walk(read):
        found[:, r] = run.loss.gradient(f, read.y).T
    return found


def gradients_after(run: Replay, read: Read) -> Float64[np.ndarray, "n rounds outputs"]:
    """G of rows after all rounds, the same for each round."""
    g = run.loss.gradient(run.final(read), read.y).T
    return np.repeat(g[:, None], run.rounds, 1)


def same_leaf(features: Any, queries: Any) -> Float64[np.ndarray, "n_train n_query"]:
    """Inner products of sparse rows; the few queries are made dense, so that a row's entry meets all of them at once."""
    return features @ queries.T.toarray()
