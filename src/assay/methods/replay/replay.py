"""Replay: the exact derivative of a query's loss by every training example's weight, through the whole training run.

    tau_i = d L_q(theta_T(w)) / d w_i,        score(i, q) = -tau_i

theta_T(w) is where the recipe ends with weights w. The run is recorded and its adjoint carried back from the last step to
the first (`adjoint`), with states held or computed again (`tape`). To first order a score is the change of the query's
loss when the example is removed; the derivative is taken at the centre of the removals that are asked about (`centre`).
Of another measurement than the loss, the score is the derivative itself: what the example adds.

Paper: Ilyas & Engstrom, MAGIC: Near-Optimal Data Attribution for Deep Learning, 2025 (2504.16430), eq. 3-6; Engstrom et
al., Optimizing ML Training with Metagradient Descent, 2025 (2503.13751), REPLAY. Cost: the run itself, once more where
states do not all fit in memory, and for each query six products of matrices a layer and step where training takes three, or
four with the Gauss-Newton matrix (`products`; then not exact). Memory: d T^(1/d) states, (1 + moments) numbers a parameter
and query, n a query. Exact up to rounding wherever training is differentiable; training that is not smooth in its weights
(large rates, kinks) has a derivative that predicts little. Deviations: the batch's divisor is fixed, so that an example keeps
its own pull; no smoothing is put into the run.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, cast

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from assay.examples import Examples
from assay.jsonable import jsonable
from assay.methods.base import Fitted, Method, option
from assay.methods.centre import CENTRES, REMOVED, check_centre
from assay.methods.replay.end import End
from assay.methods.replay.engine import differentiate
from assay.methods.replay.recording import Recording, check_recipe, provenance_of, recorded
from assay.methods.replay.tape import GIB
from assay.provenance import measured
from assay.ranking import TopK
from assay.scores import Scores
from assay.tables import Table
from assay.tasks import Choosable, Loss, Measurement, label_of, measurement_of
from assay.tasks.measurements import Reduction
from assay.training import Encoded
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
    measure: Choosable = option(  # noqa: RUF009 - a field
        "loss", "what of a query is explained: loss, margin, log-odds:TOKEN, contrast; in Python also a function"
    )
    query_loss: str = option("mean", "a query's loss, or other measurement, over its tokens", ("sum", "mean"))
    memory: float = option(2.0, "GiB that the states of the run may take, and as much again the queries' adjoints")
    recompute: int | None = option(
        None,
        "how often steps are computed again: 0 holds every state, 1 one every sqrt(steps), k (k + 1) steps^(1/(k + 1)); "
        "by default as little as memory allows",
    )
    products: str = option(
        "exact", "with second derivatives: exact, or of the Gauss-Newton matrix, which costs less", ("exact", "gauss-newton")
    )  # fmt: skip
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

        self.measurement()

    def parameters(self) -> dict[str, Any]:
        """The measurement by its name; all others as they are."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return jsonable(values | {"measure": label_of(self.measure)})

    def measurement(self) -> Measurement:
        """What is measured of a query. Raises MethodError if `measure` cannot be read."""
        return measurement_of(self.measure, cast(Reduction, self.query_loss))

    def sign(self) -> float:
        """A loss is to fall, any other measurement to rise."""
        return -1.0 if isinstance(self.measurement(), Loss) else 1.0

    def score_unit(self) -> str:
        """Nats of loss, or what else is measured, per removed example."""
        measurement = self.measurement()
        return (
            self.unit
            if isinstance(measurement, Loss)
            else f"{measurement.told.removeprefix('the ')} per removed example"
        )

    def score_notes(self) -> tuple[str, ...]:
        """What a reader must know of the sign, if it is not of the loss."""
        measurement = self.measurement()
        if isinstance(measurement, Loss):
            return ()
        return (f"A score above zero means that training on the example raised {measurement.told}.",)

    def fit(self, model: Any, train: Examples) -> Fitted:
        """Train at each centre and record the runs; `model` is an `assay.Recipe`."""
        return Replayed(self, recorded(self, check_recipe(self.name, model), train))


@dataclass(frozen=True)
class Replayed(Fitted):
    """Recorded runs, ready to be replayed for any queries."""

    method: Replay
    recording: Recording

    def score(self, queries: Examples, top: int | None = None) -> Scores:
        """Scores for each query, one adjoint each, carried together; of them `top` keeps the best at both ends."""
        with measured(self.recording.seconds) as cost:
            data = self._encoded(queries)
            tau, losses = self._mean(lambda end: end.gradients(data, self.method.measurement()), data)
            entries = tau.T.to(torch.float32).contiguous().numpy()
            kept = entries if top is None else TopK.of_columns(iter(entries.T), top)
        provenance = provenance_of(
            self.method, self.recording, queries, cost.seconds, (*self.method.score_notes(), *self.recording.told(data))
        )
        return Scores.of(kept, self.recording.train, Table.of(queries, loss=losses), provenance)

    def value(self, on: Examples) -> Values:
        """The mean score over `on`, by a single adjoint."""
        with measured(self.recording.seconds) as cost:
            data = self._encoded(on)
            measurement = self.method.measurement()
            tau, _ = self._mean(lambda end: end.mean_gradient(data, measurement)[None], data)
        provenance = provenance_of(
            self.method, self.recording, on, cost.seconds, (*self.method.score_notes(), *self.recording.told(data))
        )
        return Values.of(tau[0].numpy(), self.recording.train, provenance)

    def _encoded(self, queries: Examples) -> Encoded:
        return self.recording.recipe.encode(queries)

    def _mean(
        self, gradients: Callable[[End], Float[Tensor, "q params"]], data: Encoded
    ) -> tuple[Float64[Tensor, "q n"], Float[np.ndarray, " queries"]]:
        """Scores [q, n] and the queries' losses, both the mean over the centres."""
        recording = self.recording
        found: list[Tensor] = []
        losses: list[np.ndarray] = []
        for tape, folder in zip(recording.tapes, recording.folders, strict=True):
            losses.append(tape.end.losses(data))
            found.append(
                differentiate(tape, gradients(tape.end), self.method.memory * GIB, folder, self.method.products)
            )
        return self.method.sign() * torch.stack(found).mean(0), np.mean(losses, axis=0)
