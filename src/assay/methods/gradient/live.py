"""Exact gradients of the training examples, taken when there are queries and multiplied as they come.

For each checkpoint one pass over the training examples, or several over groups of layers where the gradients of all
queries do not fit into memory together. Memory: the queries' gradients (queries x parameters, at most 4 GiB) and a few
examples'.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from assay.compress.against import Against
from assay.errors import MethodError
from assay.examples import Examples
from assay.gradients.blocks import Layout
from assay.gradients.features import OnNonfinite, coverage_note, feature_tiles, layout_for
from assay.index.build import PROBE
from assay.methods.base import Fitted
from assay.methods.gradient.base import GradientMethod, Told, inverse, mean_gradient, query_features
from assay.models import Model
from assay.provenance import Cost, Provenance, measured
from assay.ranking import TopK
from assay.scores import Scores
from assay.tables import Table
from assay.values import Values

MOST_NUMBERS = 2**30
"""Numbers in the exact gradients of all queries that are held at once (4 GiB)."""


@dataclass(frozen=True)
class Live(Fitted):
    """A method fitted to training examples whose gradients are not stored.

    `states`: what it knows of them, a checkpoint each; `seconds`: what fitting took; `layout`: that of the model as it is,
    if it was verified for the fit.
    """

    method: GradientMethod
    model: Model
    train: Examples
    states: tuple[Any, ...]
    seconds: float
    layout: Layout | None = None

    def score(self, queries: Examples, top: int | None = None) -> Scores:
        """Dense scores, of which `top` keeps the best at both ends."""
        with measured(self.seconds) as cost:
            entries, about = self._scores(queries, self.train)
            kept = entries if top is None else TopK.of_columns((entries[:, q] for q in range(len(queries))), top)
        return Scores.of(kept, self.train, Table.of(queries, loss=about.losses), self.provenance(queries, about, cost))

    def value(self, on: Examples) -> Values:
        """The mean score of each training example, from the mean gradient of `on` where scores are linear in it: then one
        scan with one direction serves any number of queries.
        """
        if not self.method.linear():
            return super().value(on)
        with measured(self.seconds) as cost:
            entries, about = self._scores(on, self.train, mean=True)
        return Values.of(entries[:, 0].astype(np.float64), self.train, self.provenance(on, about, cost))

    def turned(self, psi: Float[Tensor, "q k"], stage: int) -> Float[Tensor, "q k"]:
        """`P_c psi_c`, for queries or whatever else has the form of a gradient."""
        return self.method.query_side(psi, list(self.states), stage)

    def some(self, queries: Examples, rows: Int[np.ndarray, " m"]) -> tuple[Float[np.ndarray, "m q"], "About"]:
        """Scores of these rows only, the method being fitted to all; and what there is to tell."""
        return self._scores(queries, self.train.select(rows.tolist()))

    def levels(self, queries: Examples) -> Float[np.ndarray, "c q"]:
        """What each query's scores are multiplied with at each checkpoint; a pass over the training examples for each, where
        the method has to see all scores for it.
        """
        if type(self.method).column_scale is GradientMethod.column_scale:
            return np.ones((len(self.model.stages()), len(queries)))
        return np.stack([level for _, level in self._stages(queries, self.train, About.of(queries))])

    def _scores(
        self, queries: Examples, train: Examples, mean: bool = False
    ) -> tuple[Float[np.ndarray, "n q"], "About"]:
        """Of these examples for each of the queries, or for the mean of the queries' gradients."""
        about = About.of(queries)
        self.model.task.check(queries)
        self.model.task.check(train)
        total = np.zeros((len(train), 1 if mean else len(queries)), np.float64)
        for scores, level in self._stages(queries, train, about, mean):
            total += scores * level
        return (total * self.method.scale(len(self.train))).astype(np.float32), about

    def _stages(
        self, queries: Examples, train: Examples, about: "About", mean: bool = False
    ) -> Iterator[tuple[Float[np.ndarray, "n q"], Float[np.ndarray, " q"]]]:
        """At each checkpoint the weighted scores, and what each query's are multiplied with."""
        method, model, stages = self.method, self.model, self.model.stages()
        weights = method.weights([stage.rate for stage in stages])
        for number, (stage, weight) in enumerate(zip(stages, weights, strict=True)):
            scores = np.zeros((len(train), 1 if mean else len(queries)), np.float64)
            if weight:
                self._stage(number, model.at(stage), queries, train, scores, about)
            level = method.column_scale(scores)
            yield weight * scores, np.ones(scores.shape[1]) if level is None else level

    def _stage(
        self,
        number: int,
        at: Model,
        queries: Examples,
        train: Examples,
        scores: Float[np.ndarray, "n q"],
        about: "About",
    ) -> None:
        """Add the scores at one checkpoint: a column a query, or one column for the mean of their gradients."""
        method = self.method
        known = self.layout if at is self.model else None
        layout = known or layout_for(at, self.train, method.train_measurement(), PROBE)
        about.coverage = layout.coverage
        columns = scores.shape[1]
        one_each = partial(query_features, compression=method.compressor().at(number))
        for part, part_layout in self._parts(at, layout, columns):
            side = (one_each if columns == len(queries) else mean_gradient)(part, queries, method)
            states = self._states(part_layout, layout)
            psi = method.query_side(side.features, states, number)
            about.told.say(method.remarks(states[number]))
            self.multiply(part, part_layout, train, psi, scores, about.told)
            about.told.query(side)
            about.losses = side.losses

    def multiply(
        self, model: Model, layout: Layout, train: Examples, psi: Tensor, scores: Float[np.ndarray, "n q"], told: Told
    ) -> None:
        """Add the scores at one checkpoint, of the blocks of the layout."""
        method = self.method
        unit = method.rows() == "norm"
        against = Against(seed=method.seed, psi=psi, squares=unit, low_rank=method.allowed_error())
        tiles = feature_tiles(
            model,
            train,
            against,
            method.train_measurement(),
            layout,
            on_nonfinite=cast(OnNonfinite, method.on_nonfinite),
        )
        for tile in tiles:
            products = tile.features[:, : len(psi)].double()
            if unit:
                products *= inverse(tile.features[:, -1].double().sqrt())[:, None]
            scores[tile.start : tile.start + len(products)] += products.numpy()
            told.tile(tile)

    def _parts(self, model: Model, layout: Layout, queries: int) -> Iterator[tuple[Model, Layout]]:
        """The model as a whole, or groups of its blocks of which all queries' gradients fit into memory.

        Raises MethodError where they do not fit and the method needs all blocks at once.
        """
        numbers = queries * sum(block.size for block in layout.blocks)
        if numbers <= MOST_NUMBERS:
            yield model, layout
            return
        if not self.method.blockwise:
            raise MethodError(
                f"Exact gradients of {queries} queries take {numbers * 4 / 2**30:.0f} GiB for this model; at most "
                f"{MOST_NUMBERS * 4 / 2**30:.0f} GiB are used. Ask fewer queries at a time, choose modules, or "
                "compress: compression='factored:16' (--compression factored:16)."
            )
        groups: list[list[str]] = []
        room = 0
        for block in layout.blocks:
            if queries * block.size > room:
                groups.append([])
                room = MOST_NUMBERS
            groups[-1] += block.parameters
            room -= queries * block.size
        for names in groups:
            part = model.part(names)
            yield part, layout_for(part, self.train, self.method.train_measurement(), PROBE)

    def _states(self, part: Layout, layout: Layout) -> list[Any]:
        if part is layout:
            return list(self.states)
        names = [block.name for block in part.blocks]
        return [self.method.part(state, names) for state in self.states]

    def provenance(self, queries: Examples, about: "About", cost: Cost) -> Provenance:
        """Of scores for these queries."""
        method, model = self.method, self.model
        return Provenance(
            method=method.name,
            parameters=method.parameters(),
            unit=method.score_unit(),
            inputs={"model": model.name, "train": self.train.origin, "queries": queries.origin},
            model_fingerprint=model.fingerprint(),
            train_fingerprint=self.train.fingerprint(),
            query_fingerprint=queries.fingerprint(),
            coverage=about.coverage,
            seconds=cost.seconds,
            peak_memory=cost.peak_memory,
            notes=(*method.score_notes(), *coverage_note(model), *about.told.notes()),
        )


@dataclass
class About:
    """What the passes tell beside the scores: notes, the queries' losses, the share of parameters."""

    told: Told
    losses: Float[np.ndarray, " q"]
    coverage: float

    @staticmethod
    def of(queries: Examples) -> "About":
        """Before any pass."""
        return About(Told(), np.zeros(len(queries)), 1.0)


def fit_live(method: GradientMethod, model: Model, train: Examples) -> Live:
    """What depends on the training examples alone, at each checkpoint; most methods need nothing."""
    states: list[Any] = []
    own: Layout | None = None
    with measured() as cost:
        if type(method).fitted_state is not GradientMethod.fitted_state:
            model.task.check(train)
            for number, stage in enumerate(model.stages()):
                at = model.at(stage)
                layout = layout_for(at, train, method.train_measurement(), PROBE)
                own = layout if at is model else own
                states.append(method.fitted_state(at, train, layout, number))
        else:
            states = [None for _ in model.stages()]
    return Live(method, model, train, tuple(states), cost.seconds, own)
