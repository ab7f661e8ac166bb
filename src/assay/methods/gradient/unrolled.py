"""What methods that unroll a training run by segments share: `curvature.path` has the derivation.

    score(i, q) = (1/N) sum over segments l of  < E_l u_l, gbar_l(i) >,    u_L = grad L_q at the end,  u_{l-1} = F_l u_l

`E_l`, `F_l` are functions of the segment's curvature, in which the methods differ; `gbar_l(i)` is the mean gradient of
example i over the segment's checkpoints, met by one scan of the training data a checkpoint, with all queries at once.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor

from assay.compress import Identity
from assay.compress.against import Against
from assay.curvature.path import Segment, segments
from assay.errors import MethodError
from assay.examples import Examples
from assay.gradients.blocks import Block
from assay.gradients.features import coverage_note, feature_tiles, layout_for
from assay.index.build import PROBE
from assay.methods.base import Fitted, Method, option
from assay.methods.gradient.base import QuerySide, Told, query_features
from assay.methods.gradient.graddot import GradDot
from assay.methods.gradient.live import MOST_NUMBERS
from assay.methods.replay.recording import check_recipe
from assay.methods.replay.tail import Tail
from assay.models import Model
from assay.provenance import Provenance, measured
from assay.ranking import TopK
from assay.scores import Scores
from assay.tables import Table
from assay.tasks.measurements import Reduction
from assay.training import Recipe, Run

Vectors = Float[Tensor, "q params"]


@dataclass(frozen=True)
class Stretch:
    """A segment with all that a method may look at: the models at its checkpoints, and the rows its curvature is of."""

    segment: Segment
    models: tuple[Model, ...]
    blocks: tuple[Block, ...]
    fitting: Examples
    reduction: Reduction


@dataclass(frozen=True)
class Unrolled(Method):
    """Takes a recipe, which it trains, or a run that was trained with enough checkpoints."""

    family: ClassVar[str] = "unrolling"
    unit: ClassVar[str] = "nats of query loss per removed example"
    per_segment: ClassVar[int]
    """Checkpoints that a segment needs."""
    inside: ClassVar[slice]
    """Which of them stand for it."""

    segments: int = option(3, "stretches of training over which curvature and gradients count as constant")
    fitting_examples: int = option(1024, "random training examples that the curvature of each segment is taken of")
    seed: int = option(0, "of their choice")
    query_loss: str = option("mean", "a query's loss over its tokens", ("sum", "mean"))
    removed: float = option(0.0, "share of the training data that the question removes; the recipe is trained there")

    def check(self) -> None:
        """Counts of at least 1."""
        self.expect(self.segments >= 1, "segments", "at least 1")
        self.expect(self.fitting_examples >= 1, "fitting_examples", "at least 1")
        self.expect(0 <= self.removed < 1, "removed", "a share of at least 0 and below 1")

    @abstractmethod
    def walk(self, stretch: Stretch, u: Vectors) -> tuple[Vectors, Vectors]:
        """`E u`, to be multiplied with training gradients, and `F u`, the query before the segment."""

    def share_replayed(self, given: Any) -> float:
        """The share of the run, from its end, that is replayed exactly instead."""
        return 0.0

    def fit(self, model: Any, train: Examples) -> "Unrolling":
        """Train, if a recipe is given; the curvature waits for the queries, as it is only needed along their path."""
        share = self.share_replayed(model)
        if share:
            weights = np.full(len(train), 1.0 - self.removed)
            tail = Tail.of(check_recipe(self.name, model), train, weights, share, self.segments * self.per_segment)
            self._check_states(tail.before)
            return Unrolling(self, tail.run, train, tail)
        run = self._run(model, train)
        self._check_states(run)
        if len(run.weights) != len(train):
            raise MethodError(
                f"The run was trained on {len(run.weights)} examples and {len(train)} were given; give those of the run."
            )
        return Unrolling(self, run, train)

    def _run(self, given: Any, train: Examples) -> Run:
        if isinstance(given, Recipe):
            recipe = replace(given, checkpoints=self.segments * self.per_segment)
            return recipe.train(train, np.full(len(train), 1.0 - self.removed))
        if isinstance(given, Run):
            self.expect(self.removed == 0, "removed", "0 with a run, which is as it is; or give the recipe")
            return given
        raise MethodError(
            f"The method '{self.name}' follows a training run, and was given {type(given).__name__}. Give "
            "assay.Recipe(make_model, task, ...), or the run that its train() returned."
        )

    def _check_states(self, run: Run) -> None:
        wanted = self.segments * self.per_segment
        if len(run.states) < wanted or len(run.states) % wanted:
            raise MethodError(
                f"{self.name} with {self.segments} segments takes {wanted} checkpoints, or a multiple; the run has "
                f"{len(run.states)} over {len(run.rates)} steps. Choose fewer segments, or train with "
                f"checkpoints={wanted}."
            )


@dataclass(frozen=True)
class Unrolling(Fitted):
    """A run with its training examples; the queries are walked back through it when there are some."""

    method: Unrolled
    run: Run
    train: Examples
    tail: Tail | None = None

    def score(self, queries: Examples, top: int | None = None) -> Scores:
        """Dense scores, of which `top` keeps the best at both ends."""
        method, run, model = self.method, self.run, self.run.model
        with measured() as cost:
            told, reduction = Told(), run.measurement.reduction
            layout = layout_for(model, self.train, run.measurement, PROBE)
            self._check_memory(len(queries) * sum(block.size for block in layout.blocks))
            total, side = self._end(queries, layout.blocks)
            told.query(side)
            u = side.features.to(model.device)
            before = run if self.tail is None else self.tail.before
            for segment in reversed(segments(before, layout.blocks, method.segments, method.inside)):
                models = tuple(
                    Model(run.checkpoints[k].load().eval(), model.task, name=model.name) for k in segment.checkpoints
                )
                learned, u = method.walk(Stretch(segment, models, layout.blocks, self._fitting(), reduction), u)
                visits = segment.visits.numpy()[:, None] / (len(self.train) * len(models))
                for at in models:
                    total += visits * self._scan(at, learned, told)
            entries = total.astype(np.float32)
            kept = entries if top is None else TopK.of_columns(iter(entries.T), top)
        provenance = Provenance(
            method=method.name,
            parameters=method.parameters(),
            unit=method.unit,
            inputs={"model": model.name, "train": self.train.origin, "queries": queries.origin},
            model_fingerprint=model.fingerprint(),
            train_fingerprint=self.train.fingerprint(),
            query_fingerprint=queries.fingerprint(),
            coverage=layout.coverage,
            seconds=run.seconds + cost.seconds,
            peak_memory=cost.peak_memory,
            notes=(*coverage_note(model), *told.notes(), *self._clip_note()),
        )
        return Scores.of(kept, Table.of(self.train), Table.of(queries, loss=side.losses), provenance)

    def _end(self, queries: Examples, blocks: Sequence[Block]) -> tuple[Float64[np.ndarray, "n q"], QuerySide]:
        """Scores of what is replayed, and the queries' gradients, carried back over it."""
        loss = self.method.query_loss
        if self.tail is not None:
            return self.tail.replay(queries, cast(Reduction, loss), blocks)
        side = query_features(self.run.model, queries, GradDot(query_loss=loss), Identity())
        return np.zeros((len(self.train), len(queries))), side

    def _scan(self, model: Model, psi: Vectors, told: Told) -> Float64[np.ndarray, "n q"]:
        """`< psi, g_i >` at one checkpoint."""
        measurement, products = self.run.measurement, np.zeros((len(self.train), len(psi)))
        layout = layout_for(model, self.train, measurement, PROBE)
        for tile in feature_tiles(model, self.train, Against(psi=psi), measurement, layout):
            products[tile.start : tile.start + len(tile.ids)] = tile.features.double().numpy()
            told.tile(tile)
        return products

    def _fitting(self) -> Examples:
        """Random examples that the run saw."""
        rows = self.run.weights.nonzero().squeeze(1).numpy()
        chosen = np.random.default_rng(self.method.seed).permutation(rows)
        return self.train.select(np.sort(chosen[: self.method.fitting_examples]))

    def _check_memory(self, numbers: int) -> None:
        if numbers > MOST_NUMBERS:
            raise MethodError(
                f"Exact gradients of the queries take {numbers * 4 / 2**30:.0f} GiB for this model; at most "
                f"{MOST_NUMBERS * 4 / 2**30:.0f} GiB are used. Ask fewer queries at a time."
            )

    def _clip_note(self) -> tuple[str, ...]:
        if self.run.update.clip is None:
            return ()
        return ("The recipe clips gradients, which is left out: where it clipped, steps were shorter than assumed.",)
