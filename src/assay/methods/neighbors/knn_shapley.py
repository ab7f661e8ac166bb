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

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from assay.errors import DataError, MethodError
from assay.examples import Examples
from assay.methods.base import Fitted, Method, ValueMethod, option
from assay.methods.neighbors.order import nearest_first, on_all_cores
from assay.methods.neighbors.space import Labels, Metric, Space
from assay.methods.neighbors.utilities import SOLVERS, Near
from assay.methods.streamed import Streamed
from assay.models import Model
from assay.progress import task
from assay.provenance import Provenance, measured
from assay.values import Values

SPAN, BLOCK = 2**20, 2**17
"""Pairs of query and training example whose distances are taken together by each core, and that are sorted and solved together."""
ON_GPU = 64
"""Times as many of both on a GPU."""
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
            total = proxy.total(on)
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
        self._gain = torch.from_numpy(self._labels.values).double().to(self.space.device)
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
        return np.concatenate([block.cpu().numpy() for block in self._folded(queries, torch.Tensor.float)]).T

    def total(self, queries: Examples | None) -> Float64[np.ndarray, " n"]:
        """Sum over the queries; None: over the training examples, each valued by all others."""
        found = np.zeros(len(self._train))
        for block in self._folded(queries, lambda values: values.sum(0, keepdim=True)):
            found += block.sum(0).cpu().numpy()
        return found

    def _folded(self, queries: Examples | None, fold: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
        """What `fold` makes of the values [q, n] for block after block of queries, in their order."""
        rows = self.space.rows if queries is None else self.space.place(queries)
        labels = self._labels.values if queries is None else self._labels.of(queries)
        target = torch.from_numpy(labels).double().to(self.space.device)
        span, block = (
            max(1, pairs * (1 if rows.device.type == "cpu" else ON_GPU) // len(self._train)) for pairs in (SPAN, BLOCK)
        )

        def work(part: slice) -> Tensor:
            distance = self.space.distances(rows[part])
            own = torch.arange(part.start, part.start + len(distance)) if queries is None else None
            pieces = (slice(start, start + block) for start in range(0, len(distance), block))
            return torch.cat([
                fold(self._solved(distance[piece], target[part][piece], None if own is None else own[piece]))
                for piece in pieces
            ])  # fmt: skip

        parts = [slice(start, start + span) for start in range(0, len(rows), span)]
        with task("valuing by neighbours", len(rows)) as advance:
            for part, found in zip(parts, on_all_cores(work, parts, rows.device), strict=True):
                yield found
                advance(len(rows[part]))

    def _solved(self, distance: Tensor, target: Tensor, own: Tensor | None) -> Float64[Tensor, "q n"]:
        """Sorted, solved, and back in the order of the training data; `own`: who asks, and so does not play."""
        label = self._gain.expand(distance.shape)
        if self._utility == "threshold":
            if own is not None:
                distance[torch.arange(len(own)), own] = torch.inf
            return SOLVERS["threshold"](self._near(label.clone(), distance, target), self._k)
        if own is not None:  # last, and then left out; not infinite, as sorting is faster in a small range
            beyond = torch.nextafter(distance.max(), distance.new_tensor(torch.inf))
            distance[torch.arange(len(own)), own] = beyond
        order = nearest_first(distance)
        order = order if own is None else order[:, :-1]
        sorted_distance = distance.gather(1, order) if self._utility == "weighted" else None
        values = SOLVERS[self._utility](self._near(label.gather(1, order), sorted_distance, target), self._k)
        return torch.zeros(distance.shape, dtype=torch.float64, device=distance.device).scatter_(1, order, values)

    def _near(self, label: Tensor, distance: Tensor | None, target: Tensor) -> Near:
        if not self._labels.regression:
            torch.eq(label, target[:, None], out=label)  # in place: booleans would take another pass
        radius = torch.inf if self._radius is None else self._radius
        return Near(label, distance, target, self._labels.classes, radius)

    def _usual_distance(self) -> float:
        """Median over some training examples of the distance to their k-th neighbour."""
        distance = self.space.distances(self.space.rows[:SAMPLE])
        return float(distance.kthvalue(min(self._k + 1, distance.shape[1]), dim=1).values.median())
