"""LAVA: how the transport cost from the training to the validation data changes with a training example's mass.

    cost(i, j) = d(x_i, x_j)^2 + W^2(rows of class y_i, validation rows of class y_j)
    value(i) = - ( u_i - mean of u over the other training examples ),     u the dual of the optimal transport

An example whose mass makes the training data lie farther from the validation data is worth less; no model is trained, and
the validation labels enter through the distances of classes alone.

Paper: Just et al. 2023, ICLR (2305.00054), equations 3 and 6; the labels' distances are those of Alvarez-Melis and Fusi 2020
(2002.02923). The transport is entropic, solved by POT in logarithms: without entropy the dual is not unique where masses are
equal, and would depend on the order of the data. Cost: O(N V) an iteration, hundreds to thousands of them, and about 32 N V
bytes; distances of classes are exact, from at most 500 rows each.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import numpy as np
from jaxtyping import Float64, Int64

from assay.errors import DataError, MethodError, require
from assay.examples import Examples
from assay.methods.base import ValueMethod, option
from assay.methods.neighbors.space import Labels, Metric, Space
from assay.models import Model
from assay.provenance import Provenance, measured
from assay.values import Values

PAIRS = 2**26
"""Pairs of training and validation example at most: 1 GiB of costs and plan."""
ITERATIONS, CLOSE = 20_000, 1e-5
ROWS = 500
"""Rows of a class from which its distance to others is taken, evenly spaced."""


@dataclass(frozen=True)
class LAVA(ValueMethod):
    """Calibrated gradient of the optimal transport between training and validation data."""

    name: ClassVar[str] = "lava"
    family: ClassVar[str] = "neighbors"
    unit: ClassVar[str] = "arbitrary"
    summary: ClassVar[str] = "how an example's mass changes the transport cost from training to validation data"
    paper: ClassVar[str] = "Just et al. 2023 (2305.00054)"

    entropy: float = option(0.1, "weight of the entropy, in mean costs of a pair; less is closer to exact and slower")
    labels: float = option(1.0, "weight of the distance between classes; 0: features alone")
    metric: Literal["auto", "cosine", "euclidean"] = option(
        "auto", "cosine or euclidean; auto is cosine for a model's representations, euclidean for columns",
        ("auto", "cosine", "euclidean"),
    )  # fmt: skip
    scale: bool = option(True, "columns lose their mean and spread; no: arrays as they are, such as embeddings")

    def check(self) -> None:
        """Numbers out of range."""
        self.expect(self.entropy > 0, "entropy", "a weight above 0")
        self.expect(self.labels >= 0, "labels", "a weight of 0 or more")

    def value(self, model: Any, train: Examples, on: Examples | None = None) -> Values:
        """Values of the training examples for the distribution of `on`.

        Raises MethodError without `on`, for too many pairs or something that is no model; MissingExtra without POT.
        """
        if on is None:
            raise MethodError("lava measures the way to other data; give on= (--on), examples as they should be.")
        if model is not None and not isinstance(model, Model):
            raise MethodError(f"lava takes the representations of a model, and was given {type(model).__name__}.")
        if len(train) * len(on) > PAIRS:
            raise MethodError(
                f"lava solves a transport between all pairs, and {len(train):,} x {len(on):,} are more than {PAIRS:,}; "
                "give fewer examples (--limit), or use knn-shapley."
            )
        require("ot", "transport")
        with measured() as cost:
            metric: Metric | None = None if self.metric == "auto" else self.metric
            space = Space(model, train, metric, self.scale)
            rows = space.place(on)
            distance = space.distances(rows).T.double().cpu().numpy()
            if self.labels:
                known = Labels(train, False)
                codes, goal = cast("list[Any]", [known.values, known.of(on)])
                if (goal < 0).any():
                    raise DataError(f"{on.origin} has a label that no training example has; leave such examples out.")
                distance += self.labels * class_distances(distance, codes, goal, known.classes)[codes[:, None], goal]
            u, total = dual(distance, self.entropy * float(distance.mean()))
            values = -(u - (u.sum() - u) / max(len(u) - 1, 1))
        named = {} if model is None else {"model": model.name}
        provenance = Provenance(
            method=self.name,
            parameters=self.parameters(),
            unit=self.unit,
            inputs=named | {"train": train.origin, "on": on.origin},
            model_fingerprint=None if model is None else model.fingerprint(),
            train_fingerprint=train.fingerprint(),
            query_fingerprint=on.fingerprint(),
            seconds=cost.seconds,
            peak_memory=cost.peak_memory,
            notes=(f"transport cost of the training to the validation data: {total:.6g} ({space.metric}).",),
        )
        return Values.of(values, train, provenance)


def dual(cost: Float64[np.ndarray, "n v"], entropy: float) -> tuple[Float64[np.ndarray, " n"], float]:
    """Dual variables of the training examples and the transport cost, all examples of one side weighing the same.

    Up to a constant, the derivatives by an example's mass of  min <P, cost> + entropy sum P (log P - 1).
    """
    ot: Any = require("ot", "transport")
    n, v = cost.shape
    if not entropy:  # all examples lie at one place
        nothing: Any = np.zeros(n)
        return nothing, 0.0
    plan, log = ot.bregman.sinkhorn_log(
        np.full(n, 1 / n), np.full(v, 1 / v), cost, entropy, numItermax=ITERATIONS, stopThr=1e-6, log=True, warn=False
    )
    if log["err"][-1] > CLOSE:
        raise MethodError(
            f"The transport did not settle in {ITERATIONS:,} iterations (masses off by {log['err'][-1]:.1g}); give more "
            "entropy=."
        )
    potential: Float64[np.ndarray, " n"] = entropy * np.asarray(log["log_u"], dtype=np.float64)
    return potential, float((plan * cost).sum())


def class_distances(
    distance: Float64[np.ndarray, "n v"], codes: Int64[np.ndarray, " n"], goal: Int64[np.ndarray, " v"], classes: int
) -> Float64[np.ndarray, "c c"]:
    """Squared Wasserstein distance of each training class to each validation class; 0 where there are no rows."""
    ot: Any = require("ot", "transport")
    found = np.zeros((classes, classes))
    for a in range(classes):
        for b in range(classes):
            mine, theirs = (_some(np.flatnonzero(side == k)) for side, k in ((codes, a), (goal, b)))
            if len(mine) and len(theirs):
                found[a, b] = ot.emd2(
                    [], [], np.ascontiguousarray(distance[np.ix_(mine, theirs)]), numItermax=10_000_000
                )
    return found


def _some(rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " m"]:
    return rows if len(rows) <= ROWS else rows[np.linspace(0, len(rows) - 1, ROWS).astype(np.int64)]
