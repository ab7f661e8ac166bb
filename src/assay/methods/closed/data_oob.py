"""Data-OOB: how well a bagged model predicts an example with those of its parts that have not seen it.

    value(i) = mean over bags b without i of T(y_i, f_b(x_i)),      stderr(i) = sd / sqrt(number of those bags)

T is 1 for the right class and 0 for a wrong one, or the negated squared error of a regression. A bag is N rows drawn with
replacement, so an example is out of about 37% of them.

Paper: Kwon and Zou 2023, ICML (2304.07718), equation 2. Cost: one fit a bag (800 by default), in processes; or none, where
the model is a fitted forest or bagging whose bags scikit-learn can draw again from its seeds. Memory: O(N) beside a batch
of fits.

An example that no bag left out gets the mean value of its class (regression: of all), NaN as its standard error and 0 in
`bags`; how many is told. Rewards typical examples: rare ones of a class are predicted worse, so compare within classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy.typing import NDArray

from assay.errors import DataError, MethodError
from assay.examples import Examples
from assay.methods.base import ValueMethod, option
from assay.methods.closed.estimators import Table, called, table_of
from assay.methods.retrain.pool import single_threaded
from assay.methods.retrain.refit.base import taken
from assay.methods.retrain.utilities import seeded
from assay.progress import task
from assay.provenance import Provenance, measured
from assay.values import Values

SPAN = 16
"""Bags fitted by a process at a time."""


@dataclass(frozen=True)
class DataOOB(ValueMethod):
    """Out-of-bag accuracy of a bagged estimator, example by example."""

    name: ClassVar[str] = "data-oob"
    family: ClassVar[str] = "closed"
    unit: ClassVar[str] = "arbitrary"
    summary: ClassVar[str] = "how well the parts of a bagged model that have not seen an example predict it"
    paper: ClassVar[str] = "Kwon and Zou 2023 (2304.07718)"
    default_model: ClassVar[str] = "tree"

    bags: int = option(800, "bags to fit; a fitted forest's own are taken instead")
    processes: int = option(1, "processes that fit; 0 is one a core")
    seed: int = option(0, "of the bags, and of estimators that draw random numbers")

    def check(self) -> None:
        """Numbers out of range."""
        self.expect(self.bags >= 2, "bags", "2 or more")
        self.expect(self.processes >= 0, "processes", "0 or more")
        self.expect(self.seed >= 0, "seed", "0 or more")

    def value(self, model: Any, train: Examples, on: Examples | None = None) -> Values:
        """Values in themselves: `on` is not looked at, and refused so that nobody relies on it.

        Raises MethodError for a model that cannot be bagged, or whose bags cannot be drawn again; DataError.
        """
        if on is not None:
            raise MethodError(
                "data-oob values each example by the bags without it and takes no on= (--on); leave it out."
            )
        with measured() as cost:
            if len(train) < 2:
                raise DataError(f"{train.origin} holds {len(train)} example; at least two were expected.")
            table = table_of(model, train)
            own = fitted_bags(table) if hasattr(table.estimator, "estimators_") else None
            tally = Tally(table)
            with single_threaded():
                for inside, outcome in self._fitted(table) if own is None else own:
                    tally.add(inside, outcome)
            values, stderr, note = tally.result()
        bags = f"{tally.bags:,} bags of {called(table.estimator)}" + (", its own." if own is not None else ".")
        provenance = Provenance(
            method=self.name,
            parameters=self.parameters(),
            unit=self.unit,
            inputs={"estimator": called(model), "train": train.origin},
            train_fingerprint=train.fingerprint(),
            seconds=cost.seconds,
            peak_memory=cost.peak_memory,
            notes=(bags, *note),
        )
        return Values.of(values, train, provenance, stderr, {"bags": tally.count})

    def _fitted(self, table: Table) -> Iterator[tuple[Bool[np.ndarray, " n"], Float64[np.ndarray, " n"]]]:
        """Each bag and the outcome of its fit, in the order of the bags whatever the processes do."""
        import joblib

        tools = cast(Any, joblib)

        spans = [range(start, min(start + SPAN, self.bags)) for start in range(0, self.bags, SPAN)]
        run = tools.Parallel(n_jobs=self.processes or -1, return_as="generator", max_nbytes="1M")
        with task("bagging", self.bags) as advance:
            for found in run(tools.delayed(fit_bags)(table, span, self.seed) for span in spans):
                yield from found
                advance(len(found))


class Tally:
    """Mean and squared deviations of each example's out-of-bag outcomes, in one pass (Welford 1962)."""

    def __init__(self, table: Table) -> None:
        n = len(table.y)
        self._codes = table.codes if table.classes is not None else np.zeros(n, np.int64)
        self.count, self.bags = np.zeros(n, np.int64), 0
        self._mean, self._squares = np.zeros(n), np.zeros(n)

    def add(self, inside: Bool[np.ndarray, " n"], outcome: Float64[np.ndarray, " n"]) -> None:
        """One bag: which rows it holds, and how well it predicts each row."""
        self.bags += 1
        self.count += ~inside
        apart = np.where(inside, 0.0, outcome - self._mean)
        self._mean += apart / np.maximum(self.count, 1)
        self._squares += apart * (outcome - self._mean)

    def result(self) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"], tuple[str, ...]]:
        """Values, standard errors (NaN below two outcomes), and what there is to tell."""
        seen, values = self.count > 0, self._mean.copy()
        if not seen.any():
            raise MethodError("No example was ever out of a bag; fit with bootstrap=True, or more bags.")
        for row in np.flatnonzero(~seen):
            alike = seen & (self._codes == self._codes[row])
            values[row] = values[alike if alike.any() else seen].mean()
        variance = np.where(self.count > 1, self._squares, np.nan) / np.maximum(self.count - 1, 1)
        stderr = np.sqrt(np.maximum(variance, 0.0) / np.maximum(self.count, 1))
        missing = int((~seen).sum())
        told = (
            (f"{missing} examples were in every bag; each has the mean value of its class instead.",) if missing else ()
        )
        return values, stderr, told


def bag_of(n: int, bag: int, seed: int) -> Int64[np.ndarray, " n"]:
    """Rows of a bag, with repetition; a function of seed and number."""
    return np.random.default_rng([seed, bag]).integers(0, n, n)


def fit_bags(table: Table, bags: range, seed: int) -> list[tuple[Bool[np.ndarray, " n"], Float64[np.ndarray, " n"]]]:
    """Fit some bags: which rows each holds, and its outcome on all rows."""
    found: list[tuple[NDArray[np.bool_], NDArray[np.float64]]] = []
    for bag in bags:
        rows = bag_of(len(table.y), bag, seed)
        inside = np.zeros(len(table.y), bool)
        inside[rows] = True
        if table.classes is not None and len(np.unique(table.codes[rows])) < 2:
            found.append((inside, (table.codes == table.codes[rows[0]]).astype(np.float64)))  # predicts its one class
            continue
        fitted = seeded(table.estimator, seed + bag).fit(taken(table.X, rows), table.y[rows])
        found.append((inside, outcome(table, fitted.predict(table.X))))
    return found


def outcome(table: Table, predicted: Any) -> Float64[np.ndarray, " n"]:
    """1 for the right class; the negated squared error of a regression."""
    if table.classes is not None:
        return (np.asarray(predicted) == table.y).astype(np.float64)
    error = np.asarray(predicted, dtype=np.float64).reshape(len(table.y), -1) - table.y.reshape(len(table.y), -1)
    return -np.square(error).sum(1)


def fitted_bags(table: Table) -> Iterator[tuple[Bool[np.ndarray, " n"], Float64[np.ndarray, " n"]]]:
    """The bags of a fitted forest or bagging, drawn again, and its parts' outcomes. Raises MethodError."""
    forest, n = table.estimator, len(table.y)
    if getattr(forest, "bootstrap", False) is not True or not hasattr(forest, "estimators_samples_"):
        raise MethodError(
            f"The fitted {called(forest)} has no bags that can be drawn again; expected a random forest or bagging fitted "
            "with bootstrap=True. Give it unfitted (sklearn.base.clone) to bag it anew."
        )
    samples: list[NDArray[Any]] = list(forest.estimators_samples_)
    fitted_to = getattr(forest, "_n_samples", n)
    if fitted_to != n or max(int(rows.max()) for rows in samples) >= n:
        raise MethodError(
            f"The {called(forest)} was fitted to {fitted_to} rows and {n} were given; give the same rows."
        )
    chosen = getattr(forest, "estimators_features_", [None] * len(samples))
    X = table.X if hasattr(table.X, "iloc") is False else table.X.to_numpy()
    for part, rows, columns in zip(forest.estimators_, samples, chosen, strict=True):
        inside = np.zeros(n, bool)
        inside[rows] = True
        predicted = np.asarray(part.predict(X if columns is None else X[:, columns]))
        if table.classes is not None and predicted.dtype.kind in "fiu" and hasattr(forest, "classes_"):
            predicted = _as_classes(part, predicted, forest)
        yield inside, outcome(table, predicted)


def _as_classes(part: Any, predicted: NDArray[Any], forest: Any) -> NDArray[Any]:
    """Parts of an ensemble are fitted to the positions of the classes."""
    known = np.asarray(forest.classes_)
    if np.array_equal(np.asarray(part.classes_), known):
        return predicted
    return known[predicted.astype(np.int64)]
