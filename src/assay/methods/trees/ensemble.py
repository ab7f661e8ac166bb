"""A tree ensemble as the methods need it: which leaf each row falls into, what each leaf adds, and how it was learned.

Rows are routed by the library that made the model, so thresholds, missing values and categories are exactly its own;
leaf values are read from its model; and both together must give its predictions, up to 1e-5, whenever rows are read.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import xxhash
from jaxtyping import Float64, Int32

from assay.errors import DataError, ModelError
from assay.examples import Examples, Matrix
from assay.methods.trees.losses import Array, Loss

FIDELITY = 1e-5
"""Largest difference allowed between the prediction from the parsed trees and the library's, for outputs of size 1."""


@dataclass(frozen=True)
class Boosting:
    """How leaf values follow from training rows: v = -G / (Hs + l2), the prediction grows by eta v.

    `eta` and `l2` None: unknown, found from the leaves. `steps`: Newton steps within a leaf. `folded`: the first round's
    leaves contain the start. `clip`: the largest |v| (max_delta_step).
    `l2_by_weight`: l2 is multiplied by the rows' mean weight. `class_weight`: a factor on a
    row's weight by its class. `refused`: why this model cannot be replayed.
    """

    eta: float | None
    l2: float | None
    steps: int = 1
    folded: bool = False
    clip: float = np.inf
    l2_by_weight: bool = False
    class_weight: tuple[float, ...] = ()
    refused: str | None = None


class Source(ABC):
    """One library's model."""

    @abstractmethod
    def columns(self, X: Any) -> Any:
        """The model's features, a DataFrame or an array that the estimator can be fitted to. Raises DataError."""

    def prepare(self, X: Any) -> Any:
        """The features as the model is asked about them. Raises DataError."""
        return self.columns(X)

    @abstractmethod
    def leaves(self, prepared: Any) -> Array:
        """The number of each row's leaf in each tree, [n, rounds, trees of a round]."""

    @abstractmethod
    def output(self, prepared: Any) -> Array:
        """The library's own prediction before any link, [n, outputs]; a forest's mean of its trees."""


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Rounds of trees. A round has one tree for each output, or one tree with a value for each output in its leaves.

    `values[r][c]`: what the leaves of round r add to output c. `classes`: labels in the order of the outputs (None: y is
    a number). `boosting` is None for a forest, whose prediction is the mean over rounds. `estimator`: what can be cloned
    and fitted again, if anything. `extra_l2[r][c]`: what may have been added to a leaf's l2; infinity in a tree that adds
    nothing.
    """

    library: str
    name: str
    source: Source
    values: Sequence[Sequence[Array]]
    start: Float64[np.ndarray, " outputs"]
    loss: Loss
    classes: Array | None
    boosting: Boosting | None
    estimator: Any = None
    forest_margin: Callable[[Array], Array] | None = None
    extra_l2: Sequence[Sequence[Array]] | None = None

    @property
    def outputs(self) -> int:
        """How many numbers a prediction has."""
        return len(self.start)

    @cached_property
    def sizes(self) -> Array:
        """Leaves of each tree, [rounds, outputs]."""
        return np.array([[len(leaf) for leaf in round_] for round_ in self.values])

    def read(self, examples: Examples, what: str) -> "Read":
        """Route these rows. Raises DataError for rows that do not fit, ModelError if the trees predict otherwise."""
        matrix = examples.matrix()
        if matrix.y is None:
            raise DataError(f"The {what} have no labels; tree methods need y: give (X, y), or --label COLUMN.")
        y = self.targets(matrix.y)
        prepared = self.source.prepare(matrix.X)
        leaves = np.ascontiguousarray(self.source.leaves(prepared), np.int32)
        output = np.asarray(self.source.output(prepared), np.float64).reshape(len(y), -1)
        read = Read(self, matrix, leaves, y, self._weights(matrix, y), output)
        difference = read.difference
        if difference > FIDELITY:
            raise ModelError(
                f"The prediction from the parsed trees differs by {difference:.1e} from {self.library}'s own on the "
                f"{what}; at most {FIDELITY:.0e} was expected. The model has something that is not read: please report."
            )
        return read

    def targets(self, y: Array) -> Array:
        """Class numbers, or numbers. Raises DataError for a label that the model does not know."""
        if self.classes is None:
            try:
                return np.asarray(y, np.float64).reshape(len(y))
            except (ValueError, TypeError) as error:
                raise DataError(f"The labels are {y[0]!r} and so on; the model predicts numbers ({error}).") from error
        known = self.classes
        try:
            given = np.asarray(y).astype(str) if known.dtype.kind in "OUS" else np.asarray(y, np.float64)
        except (ValueError, TypeError) as error:
            raise DataError(f"The label {y[0]!r} is none of the model's classes: {list(known)}.") from error
        ordered = known.astype(str) if known.dtype.kind in "OUS" else known.astype(np.float64)
        order = np.argsort(ordered)
        place = np.minimum(np.searchsorted(ordered[order], given), len(known) - 1)
        wrong = ordered[order][place] != given
        if wrong.any():
            raise DataError(f"The label {y[int(wrong.argmax())]!r} is none of the model's classes: {list(known)}.")
        return order[place].astype(np.float64)

    def named(self, examples: Examples) -> "Ensemble":
        """With the labels' names, where the model has numbers only: they are numbered in order, as by scikit-learn.

        Raises DataError if there are more or fewer names than classes.
        """
        y, known = examples.matrix().y, self.classes
        if known is None or y is None or known.dtype.kind not in "biuf" or np.asarray(y).dtype.kind not in "OUS":
            return self
        names = np.unique(np.asarray(y).astype(str))
        if len(names) != len(known):
            raise DataError(
                f"There are {len(names)} labels, {str(names[0])!r} and so on; the model has {len(known)} classes and no "
                "names for them. Give the rows that it was trained on, or its estimator."
            )
        return replace(self, classes=names)

    def fingerprint(self) -> str:
        """A hash of the structure-free content: leaf values, start, library."""
        digest = xxhash.xxh3_128(f"{self.library} {self.loss}".encode())
        digest.update(self.start.tobytes())
        for round_ in self.values:
            for leaf in round_:
                digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()

    def margin(self, output: Array) -> Array:
        """The output as the loss takes it, [outputs, n]."""
        return self.forest_margin(output) if self.forest_margin else output.T

    def _weights(self, matrix: Matrix, y: Array) -> Array:
        weight = np.ones(len(y)) if matrix.weight is None else np.asarray(matrix.weight, np.float64)
        if self.boosting is not None and self.boosting.class_weight:
            weight = weight * np.asarray(self.boosting.class_weight)[y.astype(np.int64)]
        return weight


@dataclass(frozen=True, eq=False)
class Read:
    """Rows with their leaves [n, rounds, trees of a round], labels, weights, and the library's prediction."""

    ensemble: Ensemble
    matrix: Matrix
    leaves: Int32[np.ndarray, "n rounds trees"]
    y: Float64[np.ndarray, " n"]
    weight: Float64[np.ndarray, " n"]
    output: Float64[np.ndarray, "n outputs"]

    def __len__(self) -> int:
        return len(self.y)

    def leaf(self, round_: int, output: int) -> Int32[np.ndarray, " n"]:
        """Each row's leaf in the tree of an output."""
        return self.leaves[:, round_, output if self.leaves.shape[2] > 1 else 0]

    @cached_property
    def columns(self) -> Int32[np.ndarray, "n trees"]:
        """The leaf's number among all leaves of the ensemble, tree by tree (round, then output)."""
        sizes = self.ensemble.sizes
        starts = np.concatenate([[0], np.cumsum(sizes.ravel())[:-1]]).reshape(sizes.shape).astype(np.int32)
        return (self.leaves + starts[None]).reshape(len(self), -1)

    @cached_property
    def difference(self) -> float:
        """Largest difference between our prediction and the library's, relative where predictions exceed 1."""
        ensemble = self.ensemble
        ours = np.zeros((ensemble.outputs, len(self)))
        for r, round_ in enumerate(ensemble.values):
            for c, leaf in enumerate(round_):
                ours[c] += leaf[self.leaf(r, c)]
        if ensemble.boosting is None:
            ours /= len(ensemble.values)
        ours += ensemble.start[:, None]
        return float(np.abs(ours.T - self.output).max() / max(1.0, np.abs(self.output).max()))
