"""Replay: the exact derivative of a query's loss by every training example's weight, through the whole training run.

    tau_i = d L_q(theta_T(w)) / d w_i,        score(i, q) = -tau_i

theta_T(w) is where the recipe ends with weights w. The run is recorded and its adjoint carried back from the last step to
the first (`adjoint`), with states held or computed again (`tape`). To first order a score is the change of the query's
loss when the example is removed; the derivative is taken at the centre of the removals that are asked about (`centre`).
Of another measurement than the loss, the score is the derivative itself: what the example adds.

Paper: Ilyas & Engstrom, MAGIC: Near-Optimal Data Attribution for Deep Learning, 2025 (2504.16430), eq. 3-6; Engstrom et
al., Optimizing ML Training with Metagradient Descent, 2025 (2503.13751), REPLAY. Cost: the run itself, once more where
states do not all fit in memory, and for each query two products a layer and step, about a training run. Memory: d T^(1/d)
states, (1 + moments) numbers a parameter and query, n a query. Exact up to rounding wherever training is differentiable;
training that is not smooth in its weights (large rates, kinks) has a derivative that predicts little. Deviations: the
batch's divisor is fixed, so that an example keeps its own pull; no smoothing is put into the run.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from assay.errors import MethodError
from assay.examples import Examples
from assay.gradients.features import notes
from assay.methods.base import Fitted, Method, Registered, option
from assay.methods.centre import CENTRES, REMOVED, Centre, check_centre
from assay.methods.replay.adjoint import twice_differentiable
from assay.methods.replay.engine import differentiate, final_gradients, mean_gradient
from assay.methods.replay.smoothness import POOR, metasmoothness
from assay.methods.replay.tape import GIB, Tape
from assay.models import Model
from assay.provenance import Provenance, measured, peak_memory
from assay.ranking import TopK
from assay.scores import Scores
from assay.tables import Table
from assay.tasks import Loss, Margin, Measurement
from assay.tasks.measurements import Reduction
from assay.tasks.base import evaluating
from assay.training import Encoded, Recipe
from assay.training.store import Store
from assay.values import Values


@dataclass(frozen=True)
class Replay(Method):
    """Exact derivative through the training run."""

    name: ClassVar[str] = "replay"
    family: ClassVar[str] = "replay"
    unit: ClassVar[str] = "nats of query loss per removed example"
    summary: ClassVar[str] = "exact derivative of the query's loss by each example's weight, through the training run"
    paper: ClassVar[str] = "Ilyas & Engstrom 2025 (2504.16430)"

    removed: float = option(0.0, REMOVED)
    centres: int = option(1, CENTRES)
    measure: str = option("loss", "what scores explain of a query", ("loss", "margin"))
    query_loss: str = option("mean", "a query's loss over its tokens", ("sum", "mean"))
    memory: float = option(2.0, "GiB that the states of the run may take, and as much again the queries' adjoints")
    recompute: int | None = option(
        None,
        "how often steps are computed again: 0 holds every state, 1 one every sqrt(steps), k (k + 1) steps^(1/(k + 1)); "
        "by default as little as memory allows",
    )
    smoothness: float = option(
        0.0, "step of the weights at which metasmoothness is measured, such as 0.1 (two more training runs); 0: not"
    )
    directory: str | None = option(None, "where states and progress are kept, so that a replay that was killed goes on")

    def check(self) -> None:
        """Numbers in their ranges."""
        check_centre(self)
        self.expect(self.memory > 0, "memory", "a number of GiB above 0")
        self.expect(self.recompute is None or 0 <= self.recompute <= 30, "recompute", "0 to 30, or None")
        self.expect(0 <= self.smoothness < np.inf, "smoothness", "a number of at least 0")

    def measurement(self) -> Measurement:
        """What is measured of a query."""
        reduction = cast(Reduction, self.query_loss)
        return Loss(reduction) if self.measure == "loss" else Margin(reduction)

    def fit(self, model: Any, train: Examples) -> "Replayed":
        """Train at each centre and record the runs; `model` is an `assay.Recipe`."""
        recipe = check_recipe(self.name, model)
        return Replayed(self, *recorded(self, recipe, train))


def check_recipe(name: str, given: Any) -> Recipe:
    """The recipe. Raises MethodError for anything else."""
    if isinstance(given, Recipe):
        return given
    kind = type(given).__name__
    why = ", which does not say how it was trained" if isinstance(given, Model) else ""
    raise MethodError(
        f"The method '{name}' goes back through training, and was given {kind}{why}. Give "
        "assay.Recipe(make_model, task, ...)."
    )


@dataclass(frozen=True)
class Recording:
    """The runs of a recipe at each centre, and what they are runs of."""

    recipe: Recipe
    train: Examples
    tapes: tuple[Tape, ...] = field(repr=False)
    folders: tuple[Path | None, ...]
    model: str
    fingerprint: str
    cut: int


def recorded(method: Any, recipe: Recipe, train: Examples) -> tuple[Recording, float, tuple[str, ...]]:
    """The recording for a method with `removed`, `centres`, `memory`, `recompute` and `directory`; seconds; notes."""
    with measured() as cost, twice_differentiable():
        data = recipe.encode(train)
        weights = Centre(method.removed, method.centres).weights(len(data), recipe.seed)
        tapes: list[Tape] = []
        folders: list[Path | None] = []
        for number, weight in enumerate(weights):
            folder = None if method.directory is None else Path(method.directory) / f"centre-{number}"
            store = None if folder is None else Store(folder, identity(recipe, data, weight))
            label = f"training {number + 1} of {len(weights)}"
            memory = method.memory * GIB / len(weights)
            tapes.append(Tape(recipe.steps(data, weight), memory, method.recompute, store, label))
            folders.append(folder)
        told = _smoothness_note(method.smoothness, recipe, data, weights[0])
        module = tapes[0].steps.module
        tapes[0].steps.restore(tapes[0].end)
        fingerprint = Model(module, recipe.task).fingerprint()
    cut = sum(item.cut for item in data.items)
    recording = Recording(recipe, train, tuple(tapes), tuple(folders), type(module).__name__, fingerprint, cut)
    return recording, cost.seconds, told


def identity(recipe: Recipe, data: Encoded, weights: Float64[Tensor, " n"]) -> dict[str, Any]:
    """What a run follows from, in terms of JSON."""
    digest = hashlib.sha256(weights.numpy().tobytes()).hexdigest()
    return {**recipe.facts(), "examples": data.examples.fingerprint(), "weights": digest}


def _smoothness_note(
    step: float, recipe: Recipe, data: Encoded, weights: Float64[Tensor, " n"]
) -> tuple[str, ...]:
    if not step:
        return ()
    smooth = metasmoothness(recipe, data, weights, step)
    verdict = f"Metasmoothness of training at a step of {step:g} in the weights of half the examples: {smooth:.2f}."
    advice = (
        " Below 0.9 the derivative predicts little of such a removal: a smaller learning rate, warmup or a smoother "
        "activation helps, and so does removed= with centres=."
    )
    return (verdict + advice,) if smooth < POOR else (verdict,)


@dataclass(frozen=True)
class Replayed(Fitted):
    """Recorded runs, ready to be replayed for any queries; `seconds` is what recording took."""

    method: Replay
    recording: Recording
    seconds: float
    notes: tuple[str, ...]

    def score(self, queries: Examples, top: int | None = None) -> Scores:
        """Scores for each query, one adjoint each, carried together; of them `top` keeps the best at both ends."""
        with measured(self.seconds) as cost:
            data = self._encoded(queries)
            tau, losses = self._mean(lambda tape: final_gradients(tape.steps, data, self.method.measurement()), data)
            entries = tau.T.to(torch.float32).contiguous().numpy()
            kept = entries if top is None else TopK.of_columns(iter(entries.T), top)
        provenance = provenance_of(self.method, self.recording, queries, cost.seconds, self._told(data))
        return Scores.of(kept, self.recording.train, Table.of(queries, loss=losses), provenance)

    def value(self, on: Examples) -> Values:
        """The mean score over `on`, by a single adjoint."""
        with measured(self.seconds) as cost:
            data = self._encoded(on)
            measurement = self.method.measurement()
            tau, _ = self._mean(lambda tape: mean_gradient(tape.steps, data, measurement)[None], data)
        provenance = provenance_of(self.method, self.recording, on, cost.seconds, self._told(data))
        return Values.of(tau[0].numpy(), self.recording.train, provenance)

    def _encoded(self, queries: Examples) -> Encoded:
        return self.recording.recipe.encode(queries)

    def _told(self, queries: Encoded) -> tuple[str, ...]:
        return (*notes(self.recording.cut + sum(item.cut for item in queries.items), []), *self.notes)

    def _mean(
        self, gradients: Callable[[Tape], Float[Tensor, "q params"]], data: Encoded
    ) -> tuple[Float64[Tensor, "q n"], Float[np.ndarray, " queries"]]:
        """Scores [q, n] and the queries' losses, both the mean over the centres."""
        recording, found, losses = self.recording, [], []
        for tape, folder in zip(recording.tapes, recording.folders, strict=True):
            tape.steps.restore(tape.end)
            losses.append(losses_of(tape, data))
            found.append(differentiate(tape, gradients(tape), self.method.memory * GIB, folder))
        sign = -1.0 if isinstance(self.method.measurement(), Loss) else 1.0
        return sign * torch.stack(found).mean(0), np.mean(losses, axis=0)


def losses_of(tape: Tape, queries: Encoded) -> Float[np.ndarray, " queries"]:
    """Each query's loss, mean over its tokens, at the parameters that the tape's module has now."""
    steps = tape.steps
    with evaluating(steps.module), torch.no_grad():
        parts = [
            queries.task.measure(steps.module, queries.batch(rows, steps.device), Loss("mean")).double().cpu()
            for rows in torch.split(torch.arange(len(queries)), 64)
        ]
    return torch.cat(parts).numpy() if parts else np.zeros(0)


def provenance_of(
    method: Registered, recording: Recording, queries: Examples, seconds: float, notes: Sequence[str]
) -> Provenance:
    """How a result of this recording came about."""
    explains_loss = getattr(method, "measure", "loss") == "loss"
    return Provenance(
        method=method.name,
        parameters=method.parameters(),
        unit=method.unit if explains_loss else "arbitrary",
        inputs={
            "model": recording.model,
            "recipe": str(recording.recipe),
            "train": recording.train.origin,
            "queries": queries.origin,
        },
        model_fingerprint=recording.fingerprint,
        train_fingerprint=recording.train.fingerprint(),
        query_fingerprint=queries.fingerprint(),
        coverage=1.0,
        seconds=seconds,
        peak_memory=peak_memory(),
        notes=tuple(notes),
    )
