"""Removal and addition curves: train again without, or with only, the examples of highest or of lowest value.

    removal(k) = mean over q of L_q(all but k examples)      addition(k) = mean over q of L_q(only k examples)

the k highest first, the k lowest first, and k random ones. Values that mean something lie on both sides of random: without
the highest the loss rises more, without the lowest less; with only the highest it falls sooner, with only the lowest later
(Ghorbani and Zou 2019, arXiv 1904.02868, figures 3 and 4). `repeats` random orders, nested as the others are, show what
chance does. The difference to random is taken query by query, mean over the points of a curve; its interval is over queries.

Cost: (4 + 2 repeats) x shares + 1 trainings, less those that coincide, each stored as `truth` does. On disk n + 8 q bytes each.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from assay.errors import MethodError
from assay.evaluate.intervals import Interval, one_way
from assay.evaluate.subsets import Masks, Subsets
from assay.evaluate.truth import Truth, truth
from assay.examples import Examples, read
from assay.methods.retrain.features import encoded
from assay.methods.retrain.models import estimator_of
from assay.training import EstimatorRecipe
from assay.values import Values

SHARES = (0.05, 0.1, 0.2, 0.4)
WAYS = ("removal", "addition")
NAMES = {
    ("removal", "highest"): "without the highest",
    ("removal", "lowest"): "without the lowest",
    ("addition", "highest"): "with only the highest",
    ("addition", "lowest"): "with only the lowest",
}


@dataclass(frozen=True, eq=False)
class ByValue(Subsets):
    """All but, and only, the first round(share n) examples of each order: highest first, lowest first, random ones."""

    values: Values = field(repr=False)
    shares: Sequence[float] = SHARES
    repeats: int = 5
    seed: int = 0

    @property
    def name(self) -> str:
        """`by value of shapley (1f0c...)`: method, and a digest of order, counts and random orders."""
        key = (self._ranked().tolist(), self.counts().tolist(), self.repeats, self.seed)
        return f"by value of {self.values.method} ({hashlib.sha256(repr(key).encode()).hexdigest()[:8]})"

    def counts(self) -> Int64[np.ndarray, " points"]:
        """How many examples are taken at each point of a curve, rising. Raises MethodError for shares that cannot be."""
        n = len(self.values.array)
        counts = np.unique(np.array([round(share * n) for share in self.shares], dtype=np.int64))
        if not len(counts) or counts[0] < 1 or counts[-1] >= n or self.repeats < 1 or self.seed < 0:
            raise MethodError(
                f"Curves at the shares {tuple(self.shares)} of {n} examples with {self.repeats} random orders (seed "
                f"{self.seed}) were asked for; give shares that take at least one example and leave one, and 1 or more orders."
            )
        return counts

    def orders(self) -> dict[str, Int64[np.ndarray, " n"]]:
        """Positions of the examples in the order in which they are taken: highest, lowest, random 0, ..."""
        ranked, n = self._ranked(), len(self.values.array)
        chance = {
            f"random {r}": np.random.default_rng((self.seed, r)).permutation(n).astype(np.int64)
            for r in range(self.repeats)
        }
        return {"highest": ranked, "lowest": ranked[::-1].copy(), **chance}

    def members(self, train: Examples) -> tuple[tuple[str, ...], Masks]:
        n, counts = len(self.values.array), self.counts().tolist()
        if len(train) != n:
            raise MethodError(
                f"The values are of {n} examples and {len(train)} were given; give those that were valued."
            )
        names: list[str] = []
        masks: list[np.ndarray] = []
        for way in WAYS:
            for order, rows in self.orders().items():
                for count in counts:
                    taken = np.zeros(n, dtype=np.bool_)
                    taken[rows[:count]] = True
                    names.append(f"{way} of {count}, {order}")
                    masks.append(taken if way == "addition" else ~taken)
        return tuple(names), np.stack(masks)

    def _ranked(self) -> Int64[np.ndarray, " n"]:
        """Highest first; equal values in the order of the data."""
        return np.argsort(-self.values.array, kind="stable").astype(np.int64)


@dataclass(frozen=True)
class Curves:
    """What retraining gave.

    Args:
        method: whose values these are.
        counts: examples taken at each point.
        losses: by way (`removal`, `addition`) and order (`highest`, `lowest`, `random 0`, ...) the loss of each query at each
            point. In nats for a classifier or a text, half the squared error for a regression.
        full: the loss of each query with all examples.
        gaps: by way and order (`highest`, `lowest`) its loss less that of random, mean over points, with an interval over queries.
    """

    method: str
    counts: Int64[np.ndarray, " points"]
    losses: Mapping[tuple[str, str], Float64[np.ndarray, "points q"]] = field(repr=False)
    full: Float64[np.ndarray, " q"] = field(repr=False)
    gaps: Mapping[tuple[str, str], Interval]

    @property
    def text(self) -> str:
        """A plain statement."""
        told = [
            f"{NAMES[key]} {self.counts[0]:,} to {self.counts[-1]:,} examples the mean loss is {abs(gap.mean):.3g} "
            f"{'higher' if gap.mean > 0 else 'lower'} than for random ones (95% interval {gap.low:+.3g} to {gap.high:+.3g})"
            for key, gap in self.gaps.items()
        ]
        return f"Values of {self.method}: {'; '.join(told)}."

    def line(self, way: str, order: str) -> Float64[np.ndarray, "repeats points"]:
        """Mean loss over the queries at each point: of `highest` or `lowest` one line, of `random` one for each order."""
        found = [losses.mean(1) for (one, name), losses in self.losses.items() if one == way and name.startswith(order)]
        return np.stack(found)

    def evidence(self) -> dict[str, Any]:
        """In terms of JSON, as `Values.with_evidence(curves=...)` keeps it and the report shows it."""
        return {
            "unit": "mean loss less that of random examples",
            "rows": [gap.row(NAMES[key]) for key, gap in self.gaps.items()],
            "text": self.text,
            "counts": self.counts.tolist(),
            "full": float(self.full.mean()),
            "lines": {
                way: {order: self.line(way, order).tolist() for order in ("highest", "lowest", "random")}
                for way in WAYS
            },
        }


def curves(
    values: Values,
    recipe: Any,
    train: Any,
    queries: Any,
    path: str | os.PathLike[str],
    shares: Sequence[float] = SHARES,
    repeats: int = 5,
    seed: int = 0,
    processes: int = 2,
) -> Curves:
    """Train again while the highest, the lowest or random examples are removed, or added; what is stored is not repeated.

    Args:
        values: one value for each training example (not for groups of them).
        recipe: an `assay.Recipe`, an `EstimatorRecipe`, an estimator of scikit-learn, or the name of one (`logistic`), which
            reads encoded rows.
        train: the examples that were valued.
        queries: the examples whose loss is measured. Others than those that the values were made on make a fairer test.
        path: a directory that keeps every retraining, as for `truth`.
        shares: of the examples, the points of the curves.
        repeats: random orders, drawn by `seed`.
        processes: trainings at a time.

    Raises:
        MethodError: values of other examples or of groups; shares that take none or all; rows with weights for a named
            estimator; and what `truth` raises.
    """
    train, queries = read(train), read(queries)
    if list(values.ids) != list(train.ids):
        raise MethodError(
            f"The values are of {len(values.ids)} players that are not the {len(train)} training examples given, in their "
            "order. Curves remove examples: give the data that were valued, and values by example."
        )
    subsets = ByValue(values, tuple(shares), repeats, seed)
    if isinstance(recipe, str):
        recipe, train, queries = _named(recipe, train, queries)
    return folded(truth(recipe, train, queries, path, subsets, processes=processes), subsets)


def folded(found: Truth, subsets: ByValue) -> Curves:
    """The curves of a truth that was made with these subsets."""
    counts, position = subsets.counts(), {name: j for j, name in enumerate(found.names)}
    losses = {
        (way, order): found.losses[[position[f"{way} of {count}, {order}"] for count in counts.tolist()]]
        for way in WAYS
        for order in subsets.orders()
    }
    chance = {way: np.mean([losses[way, f"random {r}"] for r in range(subsets.repeats)], axis=0) for way in WAYS}
    gaps = {(way, order): one_way((losses[way, order] - chance[way]).mean(0)) for way, order in NAMES}
    return Curves(subsets.values.method, counts, losses, found.full, gaps)


def _named(name: str, train: Examples, queries: Examples) -> tuple[EstimatorRecipe, Examples, Examples]:
    """An estimator by name, and the rows as it reads them: encoded as the training rows ask for."""
    rows, goal = train.matrix(), queries.matrix()
    if rows.weight is not None:
        raise MethodError("The rows have weights, which curves do not use; leave them out, or give a Recipe.")
    X, Xv = encoded(rows.X, goal.X)
    return EstimatorRecipe(estimator_of(name, rows.y)), read((X, rows.y)), read((Xv, goal.y))
