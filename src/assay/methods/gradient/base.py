"""The one formula of the gradient family, with the parts that a method chooses.

    score(i, q) = r_i * sum over checkpoints c of  w_c * < phi_c(i),  P_c psi_c(q) >

`phi_c(i)`: compressed gradient of the training measurement at checkpoint c; `psi_c(q)`: of the query's measurement;
`P_c` acts on the few queries only; `r` scales rows. With compression the features are stored in an index (a temporary
one, unless the user keeps it) and scanned; exact gradients are too long to store and are multiplied as they come.
"""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from assay import progress
from assay.compress import Compression, Identity, parse
from assay.errors import MethodError
from assay.examples import Examples
from assay.gradients.blocks import Layout, to_vectors
from assay.gradients.features import (
    EXAMPLES,
    POSITIONS,
    OnNonfinite,
    Tile,
    feature_tiles,
    layout_for,
    not_finite,
    notes,
    pack,
)
from assay.gradients.functional import each_gradient, requiring_gradients, summed_gradient
from assay.index.build import PROBE, Contents, build_index
from assay.index.format import Dtype
from assay.index.reader import StoredIndex
from assay.jsonable import jsonable
from assay.methods.base import Fitted, Method, option
from assay.methods.centre import CENTRES, REMOVED, check_centre, check_no_centre, fit_at_centres
from assay.models import Checkpoint, Model
from assay.provenance import measured
from assay.tasks import Choosable, Loss, Measurement, label_of, measurement_of, negative
from assay.tasks.base import evaluating
from assay.training import Recipe, Run

RowScale = Literal["none", "norm", "miss"]
"""Nothing; one over the length of the row's features (cosine); the mean of TRAK's residual over checkpoints."""


@dataclass(frozen=True)
class GradientMethod(Method):
    """What all methods of the family share; a subclass overrides the parts in which it differs."""

    family: ClassVar[str] = "gradient"
    unit: ClassVar[str] = "arbitrary"
    every_checkpoint: ClassVar[bool] = False
    """Whether it sums over the model's checkpoints; otherwise it takes the model as it is."""
    last_checkpoint: ClassVar[bool] = False
    """Whether it takes the last checkpoint, if there is one, for what the optimiser remembered there."""
    from_start: ClassVar[bool] = False
    """Whether the model before training is its first checkpoint."""
    row_scale: ClassVar[RowScale] = "none"
    stores: ClassVar[bool] = False
    """Whether it needs a pass over all features before it can score, so that they are stored even uncompressed."""
    compresses: ClassVar[bool] = True
    """Whether compressed features will do; otherwise it needs exact gradients."""
    blockwise: ClassVar[bool] = False
    """Whether its score is a sum over blocks of parameters, so that they can be taken a few at a time."""

    compression: str = option("none", "none (exact), factored:RANK, sjlt:DIM or eigen:RANK")
    seed: int = option(0, "of the random projection")
    train_loss: str = option("sum", "a training example's loss over its tokens", ("sum", "mean"))
    query_loss: str = option("mean", "a query's loss, or other measurement, over its tokens", ("sum", "mean"))
    measure: Choosable = option(  # noqa: RUF009 - a field
        "loss", "what of a query is explained: loss, margin, log-odds:TOKEN, contrast; in Python also a function"
    )
    on_nonfinite: str = option(
        "raise", "a loss or gradient that is NaN or infinite: stop, or skip the example", ("raise", "skip")
    )
    removed: float = option(0.0, REMOVED)
    centres: int = option(1, CENTRES)

    def check(self) -> None:
        """The compression must be readable, the centre in range."""
        check_centre(self)
        self.expect(isinstance(cast(object, self.compression), str), "compression", "its name, such as 'factored:16'")
        exact = isinstance(parse(self.compression, self.seed), Identity)
        if not self.compresses and not exact:
            raise MethodError(
                f"{self.name} needs exact gradients, as its curvature is that of the layers themselves, and "
                f"compression={self.compression!r} was given. Leave it out; many queries are cheap (low_rank=0.1)."
            )
        self.outcome()

    def parameters(self) -> dict[str, Any]:
        """The measurement by its name; all others as they are."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return jsonable(values | {"measure": label_of(self.measure)})

    def check_model(self, model: object) -> Model:
        """The model, if the method can take it; MethodError otherwise."""
        model = self.of_run(model) if isinstance(model, Run) else model
        if not isinstance(model, Model):
            raise MethodError(
                f"The method '{self.name}' takes gradients of a model, and was given {type(model).__name__}. Give "
                "assay.load(path), assay.Model(module, task=...) or an assay.Recipe."
            )
        return model

    def of_run(self, run: Run) -> Model:
        """The model of a training run."""
        return run.model

    # -- the parts ---------------------------------------------------------------------------------------------------

    def train_measurement(self) -> Measurement:
        """Whose gradient is a training example's feature."""
        return Loss(cast(Any, self.train_loss))

    def query_measurement(self) -> Measurement:
        """Whose gradient is a query's feature: what training on a helpful example lowers, so minus what it raises."""
        outcome = self.outcome()
        return outcome if isinstance(outcome, Loss) else negative(outcome)

    def outcome(self) -> Measurement:
        """What of a query is explained. Raises MethodError if `measure` cannot be read."""
        return measurement_of(self.measure, cast(Any, self.query_loss))

    def score_unit(self) -> str:
        """The unit of a score, which names the measurement if it is another than the method's own."""
        if self._usual():
            return self.unit
        told = self.outcome().told.removeprefix("the ")
        found = self.unit.replace("nats of query loss", told).replace("nats per", f"{told} per")
        return found if found != self.unit else f"{self.unit}, of {told}"

    def score_notes(self) -> tuple[str, ...]:
        """What a reader must know of the sign, if a score is of another measurement than the method's own."""
        outcome = self.outcome()
        if self._usual():
            return ()
        change = "lowered" if isinstance(outcome, Loss) else "raised"
        return (f"A score above zero means that training on the example {change} {outcome.told}.",)

    def _usual(self) -> bool:
        """Whether it measures what it measures unless told otherwise."""
        own: Choosable = type(self).__dataclass_fields__["measure"].default
        return type(self.outcome()) is type(measurement_of(own))

    def weights(self, rates: Sequence[float]) -> list[float]:
        """`w_c`, given the learning rate at each checkpoint."""
        return [1.0 for _ in rates]

    def scale(self, rows: int) -> float:
        """What every score is multiplied with, given the number of training examples."""
        return 1.0

    def column_scale(self, scores: Float[np.ndarray, "n q"]) -> Float[np.ndarray, " q"] | None:
        """What each query's scores at one checkpoint are multiplied with, having seen all of them; None is 1."""
        return None

    def allowed_error(self) -> float:
        """Largest relative error of a query's gradient in a block where factors replace it; 0: none (exact gradients)."""
        return 0.0

    def query_side(self, psi: Float[Tensor, "q k"], state: Any, stage: int) -> Float[Tensor, "q k"]:
        """`P_c psi_c(q)`; by default P is the identity."""
        return psi

    def rows(self) -> RowScale:
        """How rows are scaled; a method with an option for it says so here."""
        return self.row_scale

    def linear(self) -> bool:
        """Whether a mean over queries of its scores is the score of their mean gradient."""
        plain = (getattr(type(self), name) is getattr(GradientMethod, name) for name in ("query_side", "column_scale"))
        return all(plain) and self.allowed_error() == 0

    def state(self, source: StoredIndex, model: Model) -> Any:
        """What the method needs to know of all training features; a pass over a stored index."""
        return None

    def state_for(self, state: Any, psi: Float[Tensor, "c q k"]) -> Any:
        """The state for these queries, where P depends on them."""
        return state

    def row_factor(self, source: StoredIndex, state: Any) -> Float[Tensor, "..."] | None:
        """`r_i`, [n] or one for each checkpoint [c, n]; None is 1."""
        match self.rows():
            case "norm":
                return inverse(source.norms())
            case "miss":
                return source.stats("miss").mean(0)
            case _:
                return None

    def fitted_state(self, model: Model, train: Examples, layout: Layout, stage: int) -> Any:
        """The same for exact gradients, at one checkpoint (the model is already there): `query_side` gets a list."""
        return None

    def part(self, state: Any, names: list[str]) -> Any:
        """What of a checkpoint's state belongs to the named blocks."""
        return state

    def remarks(self, state: Any) -> tuple[str, ...]:
        """What the user must be told of the result, given the state (of exact gradients a checkpoint's); sentences."""
        return ()

    # -- from here on shared -----------------------------------------------------------------------------------------

    def stages(self, model: Model) -> tuple[Checkpoint, ...]:
        """The checkpoints that take part."""
        if self.every_checkpoint:
            return model.stages()
        return (Checkpoint("current", 1.0, lambda: model.module),)

    def compressor(self) -> Compression:
        """The compression, with its seed."""
        return parse(self.compression, self.seed)

    def train_compression(self) -> Compression:
        """The compression of training gradients, with what else is done to them."""
        return self.compressor()

    def contents(self, dtype: Dtype = "float32", origin: Any = None) -> Contents:
        """What an index must hold for this method."""
        return Contents(
            self.train_compression(),
            self.train_measurement(),
            dtype,
            self.rows() == "miss",
            cast(OnNonfinite, self.on_nonfinite),
            origin,
        )

    def fit(self, model: Any, train: Examples) -> Fitted:
        """Exact gradients wait for the queries; compressed ones are captured now, into a temporary index.

        An `assay.Recipe` in place of a model is trained at the method's centres.
        """
        if isinstance(model, Recipe):
            return fit_at_centres(self, model, train, self.fit_model)
        check_no_centre(self, model)
        return self.fit_model(model, train)

    def fit_model(self, model: Any, train: Examples) -> Fitted:
        """The same for a model that is trained."""
        model = self.staged(self.check_model(model))
        if isinstance(self.compressor(), Identity) and not self.stores:
            from assay.methods.gradient.live import fit_live

            return fit_live(self, model, train)
        from assay.methods.gradient.indexed import Indexed

        folder = Path(tempfile.mkdtemp(prefix="assay-"))
        try:
            with measured() as cost:
                contents = self.contents(origin={"train": train.origin})
                index = build_index(model, train, folder / "index", contents)
            return Indexed(index, model, self, cost.seconds, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def staged(self, model: object) -> Model:
        """The model with the checkpoints that this method uses."""
        model = self.check_model(model)
        if self.last_checkpoint and model.checkpoints:
            return with_checkpoints(model, model.checkpoints[-1:])
        return model if self.every_checkpoint else without_checkpoints(model)


def with_checkpoints(model: Model, checkpoints: Sequence[Checkpoint]) -> Model:
    """The same module with other checkpoints."""
    return Model(
        model.module, model.task, modules=model.patterns, checkpoints=checkpoints, name=model.name, path=model.path
    )


def without_checkpoints(model: Model) -> Model:
    """The model as it is now."""
    return with_checkpoints(model, ())


@dataclass(frozen=True)
class QuerySide:
    """The queries at a checkpoint: features of each, or of their mean; losses (mean over tokens, nats), and how many were cut."""

    features: Float[Tensor, "m k"]
    losses: Float[np.ndarray, " q"]
    cut: int


def query_features(model: Model, queries: Examples, method: GradientMethod, compression: Compression) -> QuerySide:
    """Features of the queries at one checkpoint (the model is already there)."""
    model.task.check(queries)
    measurement = method.query_measurement()
    layout = layout_for(model, queries, measurement, PROBE)
    given = (model, queries, compression, measurement, layout)
    tiles = list(feature_tiles(*given, window=TOGETHER, on_nonfinite="raise", label="queries"))
    features = tiles[0].features if len(tiles) == 1 else torch.cat([tile.features for tile in tiles])
    cut = int(sum(float(tile.statistics["cut"].sum()) for tile in tiles))
    if measurement == Loss("mean"):  # then the pass has told
        return QuerySide(features, torch.cat([tile.statistics["value"] for tile in tiles]).double().numpy(), cut)
    return QuerySide(features, losses(model, queries), cut)


def mean_gradient(model: Model, queries: Examples, method: GradientMethod) -> QuerySide:
    """The mean of the queries' exact gradients as one row, by one backward pass a batch, summed in float64; the loss of each.

    Raises NonFiniteError that names the query.
    """
    task, module, measurement = model.task, model.module, method.query_measurement()
    task.check(queries)
    names, blocks = list(model.parameters), layout_for(model, queries, measurement, PROBE).blocks
    total = {name: torch.zeros(p.shape, dtype=torch.float64, device=p.device) for name, p in model.parameters.items()}
    items = [task.encode(query) for query in queries]
    with (
        evaluating(module),
        requiring_gradients(module, model.parameters.values()),
        progress.task("targets", len(items)) as on,
    ):
        for members in pack([item.length for item in items], POSITIONS, EXAMPLES):
            batch = task.collate([items[k] for k in members], model.device)
            values, found = summed_gradient(model, batch, measurement, names)
            if not all(bool(part.isfinite().all()) for part in (values, *found.values())):
                for one, each in zip(batch.ids, each_gradient(model, batch, measurement, names), strict=True):
                    flat = to_vectors(blocks, each)
                    not_finite((one,), flat, flat.sum(1), "raise")
            for name, gradient in found.items():
                total[name] += gradient
            on(len(members))
    mean = {name: (tensor / len(items)).float()[None] for name, tensor in total.items()}
    return QuerySide(to_vectors(blocks, mean).cpu(), losses(model, queries), sum(item.cut for item in items))


def losses(model: Model, examples: Examples) -> Float[np.ndarray, " n"]:
    """Loss of each example, mean over its tokens, nats; the module is in evaluation mode for it."""
    values: list[float] = []
    with evaluating(model.module), torch.no_grad():
        for start in range(0, len(examples), 8):
            items = [model.task.encode(example) for example in examples[start : start + 8]]
            batch = model.task.collate(items, model.device)
            values += model.task.measure(model.module, batch, Loss("mean")).tolist()
    return np.array(values)


TOGETHER = 1024
"""Queries whose features are collected together: all are kept anyway, and full batches are quicker."""
SHORTEST = 1e-18
"""A shorter gradient counts as zero in a cosine: its square is beyond the range of float32."""


def inverse(length: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """One over the length; 0 for gradients that vanish."""
    return torch.where(length > SHORTEST, 1.0 / length.clamp(min=SHORTEST), 0.0)


class Told:
    """What the passes over examples and queries have to tell: which were cut, which are not finite anywhere."""

    def __init__(self) -> None:
        self._cut = set[str]()
        self._cut_queries = 0
        self._skipped: dict[str, None] = {}
        self._said: dict[str, None] = {}

    def say(self, remarks: tuple[str, ...]) -> None:
        """Take note of sentences, each once."""
        self._said.update(dict.fromkeys(remarks))

    def tile(self, tile: Tile) -> None:
        """Take note of training examples."""
        self._cut.update(tile.ids[int(k)] for k in tile.statistics["cut"].nonzero())
        self._skipped.update((tile.ids[int(k)], None) for k in tile.statistics["skipped"].nonzero())

    def query(self, side: QuerySide) -> None:
        """Take note of the queries, whose cuts are the same at every checkpoint."""
        self.cut_queries(side.cut)

    def cut_queries(self, count: int) -> None:
        """So many queries were cut."""
        self._cut_queries = count

    def notes(self) -> tuple[str, ...]:
        """In words."""
        return (*notes(len(self._cut) + self._cut_queries, list(self._skipped)), *self._said)
