"""KNN-Shapley: exact Shapley values for the nearest-neighbour classifier that stands in for the model.

    value(i) = mean over queries of phi_i,      score(i, q) = phi_i for the query q

where phi are the Shapley values of the game whose players are the training examples and whose utility is the K-nearest
classifier's success at the query. One sort by distance gives all of them; `utilities/` has a file for each utility, with its
formula. They sum to U(all) - U(empty).

Papers: Jia et al. 2019 (1908.08619); soft labels: Wang and Jia 2023 (2304.04258); threshold: Wang et al. 2023 (2308.15709);
weighted votes: Wang et al. 2024 (2401.11103). Cost: O(V N (d + log N)) for V queries, and memory for a block of queries.

Valued on itself (no `on`), each training example is a query to all others, and is worth nothing to itself. Of equal
distances (float32) the earlier row is nearer. Representations that a model learned from these labels leak them: a wrong
label that was memorised looks right.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from assay.errors import DataError, MethodError
from assay.examples import Examples
from assay.methods.base import Fitted, Method, ValueMethod, option
from assay.methods.neighbors.order import nearest_first
from assay.methods.neighbors.space import Labels, Metric, Space
from assay.methods.neighbors.utilities import SOLVERS, Near
from assay.methods.streamed import Streamed
from assay.models import Model
from assay.progress import task
from assay.provenance import Provenance, measured
from assay.values import Values

BLOCK = 2**18
"""Pairs of query and training example looked at together."""
SAMPLE = 256
"""Training examples from which the usual distance to a neighbour is taken."""


@dataclass(frozen=True)
class KNNShapley(Method, ValueMethod):
    """Exact Shapley values under a nearest-neighbour proxy."""

    name: ClassVar[str] = "knn-shapley"
    family: ClassVar[str] = "neighbors"
    unit: ClassVar[str] = "arbitrary"
    summary: ClassVar[str] = "exact Shapley values under a nearest-neighbour proxy of the model"
    paper: ClassVar[str] = "Jia et al. 2019 (1908.08619); Wang and Jia 2023 (2304.04258)"

    k: int = option(10, "neighbours that vote")
    utility: Literal["auto", "soft", "classic", "weighted", "threshold", "regression"] = option(
        "auto", "what a set is worth; auto is soft for classes, regression for numbers",
        ("auto", "soft", "classic", "weighted", "threshold", "regression"),
    )  # fmt: skip
    metric: Literal["auto", "cosine", "euclidean"] = option(
        "auto", "cosine or euclidean; auto is cosine for a model's representations, euclidean for columns",
        ("auto", "cosine", "euclidean"),
    )  # fmt: skip
    scale: bool = option(True, "columns lose their mean and spread; no: arrays as they are, such as embeddings")
    radius: float | None = option(
        None, "of the threshold, a squared distance or 1 - cosine; by default the usual one to the k-th neighbour"
    )

    def check(self) -> None:
        """Numbers out of range."""
        self.expect(self.k >= 1, "k", "1 or more")
        self.expect(self.radius is None or 0 <= self.radius < np.inf, "radius", "a finite distance of 0 or more")

    def fit(self, model: Any, train: Examples) -> Fitted:
        """Place the training examples."""
        with measured() as cost:
            proxy = Proxy(self, model, train)
        return Streamed(self, train, proxy.scores, cost.seconds, proxy.space.model, lambda queries: proxy.notes)

    def value(self, model: Any, train: Examples, on: Examples | None = None) -> Values:
        """Mean over the examples `on`; without them over the training examples, each valued by all others.

        Raises MethodError for something that is no model; DataError for examples without labels or columns.
        """
        with measured() as cost:
            proxy = Proxy(self, model, train)
            total = np.zeros(len(train))
            for block in proxy.blocks(on):
                total += block.sum(0).cpu().numpy()
        named = {} if proxy.space.model is None else {"model": proxy.space.model.name}
        provenance = Provenance(
            method=self.name,
            parameters=self.parameters(),
            unit=self.unit,
            inputs=named | {"train": train.origin} | ({} if on is None else {"on": on.origin}),
            model_fingerprint=None if proxy.space.model is None else proxy.space.model.fingerprint(),
            train_fingerprint=train.fingerprint(),
            query_fingerprint=None if on is None else on.fingerprint(),
            seconds=cost.seconds,
            peak_memory=cost.peak_memory,
            notes=proxy.notes,
        )
        return Values.of(total / len(train if on is None else on), train, provenance)


class Proxy:
    """The nearest-neighbour proxy of some training examples."""

    def __init__(self, method: KNNShapley, model: Any, train: Examples) -> None:
        if model is not None and not isinstance(model, Model):
            raise MethodError(
                f"{method.name} takes the representations of a model, and was given {type(model).__name__}. Give "
                "assay.load(path) or assay.Model(module, task), or None to use the columns of the data."
            )
        if len(train) < 2:
            raise DataError(f"{train.origin} holds {len(train)} example; at least two were expected.")
        self._k, self._train = method.k, train
        wanted = {"auto": None, "regression": True}.get(method.utility, False)
        self._labels = Labels(train, wanted)
        self._utility = method.utility
        if method.utility == "auto":
            self._utility = "regression" if self._labels.regression else "soft"
        metric: Metric | None = None if method.metric == "auto" else method.metric
        self.space = Space(model, train, metric, method.scale)
        self._gain = torch.from_numpy(self._labels.values).to(self.space.device)
        self._radius = method.radius
        if self._utility == "threshold" and method.radius is None:
            self._radius = self._usual_distance()

    @property
    def notes(self) -> tuple[str, ...]:
        """What is played."""
        told = f"utility: {self._utility} with K = {self._k}, {self.space.metric} distance"
        return (f"{told}, radius {self._radius:.4g}." if self._utility == "threshold" else f"{told}.",)

    def scores(self, queries: Examples) -> Float32[np.ndarray, "n_train n_query"]:
        """Of some queries."""
        return np.concatenate([block.float().cpu().numpy() for block in self.blocks(queries)]).T

    def blocks(self, queries: Examples | None) -> Iterator[Float64[Tensor, "q n"]]:
        """Shapley values of all training examples for block after block of queries; None: for one another."""
        n = len(self._train)
        rows = self.space.rows if queries is None else self.space.place(queries)
        labels = self._labels.values if queries is None else self._labels.of(queries)
        target = torch.from_numpy(labels).to(self.space.device)
        size = max(1, BLOCK // n)
        with task("valuing by neighbours", len(rows)) as advance:
            for start in range(0, len(rows), size):
                part = slice(start, start + size)
                own = None if queries is not None else torch.arange(start, min(start + size, n))
                yield self._solved(self.space.distances(rows[part]), target[part], own)
                advance(len(rows[part]))

    def _solved(self, distance: Tensor, target: Tensor, own: Tensor | None) -> Float64[Tensor, "q n"]:
        """Sorted, solved, and back in the order of the training data; `own`: who does not play, for each query."""
        if own is not None:
            distance[torch.arange(len(own)), own] = torch.inf  # last, and then left out
        if self._utility == "threshold":
            return SOLVERS["threshold"](self._near(self._gain[None, :], distance, target), self._k)
        order = nearest_first(distance)
        if own is not None:
            order = order[:, :-1]
        sorted_distance = distance.gather(1, order) if self._utility == "weighted" else None
        values = SOLVERS[self._utility](self._near(self._gain[order], sorted_distance, target), self._k)
        return torch.zeros(distance.shape, dtype=torch.float64, device=distance.device).scatter_(1, order, values)

    def _near(self, gain: Tensor, distance: Tensor | None, target: Tensor) -> Near:
        if not self._labels.regression:
            gain = gain == target[:, None]
        radius = torch.inf if self._radius is None else self._radius
        return Near(gain.double(), distance, target.double(), self._labels.classes, radius)

    def _usual_distance(self) -> float:
        """Median over some training examples of the distance to their k-th neighbour."""
        distance = self.space.distances(self.space.rows[:SAMPLE])
        return float(distance.kthvalue(min(self._k + 1, distance.shape[1]), dim=1).values.median())
