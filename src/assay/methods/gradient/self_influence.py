"""Self-influence: how much an example's own gradient step would lower its own loss.

    d_i = sum over checkpoints c of  w_c |grad L_i(theta_c)|^2,        value_i = -d_i

Memorised, mislabelled and odd examples have large `d`, so that easy examples come first and suspicious ones last. It is
the diagonal of `tracin` (of `graddot`, if the model has no checkpoints: one checkpoint of weight 1).

A recipe is trained first, with the checkpoints that it keeps; a record gives `w_c |grad L_i(theta_c)|^2` at its looks at the gradients.

Paper: Pruthi et al. 2020 (arXiv 2002.08484), section 5.1. Cost: one gradient an example and checkpoint. Hard and wrong
examples are confounded; under a loss summed over tokens long examples come out large.
"""

from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from assay.compress import Compression, Identity, parse
from assay.compress.against import Against
from assay.dynamics import Record
from assay.errors import MethodError
from assay.examples import Examples
from assay.gradients.features import OnNonfinite, coverage_note, feature_tiles, layout_for
from assay.gradients.sketch import Evidence, Fittable
from assay.index.build import PROBE
from assay.methods.base import ValueMethod, option
from assay.methods.gradient.base import Told
from assay.models import Model
from assay.provenance import Provenance, measured
from assay.tasks import Loss
from assay.training import Recipe, model_of
from assay.values import Values


@dataclass(frozen=True)
class SelfInfluence(ValueMethod):
    """Squared length of each example's gradient along the training run, negated."""

    name: ClassVar[str] = "self-influence"
    family: ClassVar[str] = "gradient"
    unit: ClassVar[str] = "arbitrary"
    summary: ClassVar[str] = "squared gradient length along the run (TracIn's diagonal); suspicious examples come last"
    paper: ClassVar[str] = "Pruthi et al. 2020 (2002.08484)"

    compression: str = option("none", "none (exact), factored:RANK, sjlt:DIM or eigen:RANK")
    seed: int = option(0, "of the random projection")
    train_loss: str = option("sum", "an example's loss over its tokens", ("sum", "mean"))
    on_nonfinite: str = option(
        "raise", "a loss or gradient that is NaN or infinite: stop, or skip the example", ("raise", "skip")
    )

    def check(self) -> None:
        """The compression must be readable."""
        parse(self.compression, self.seed)

    def value(self, model: object, train: Examples, on: Examples | None = None) -> Values:
        """Values of the training examples; needs no validation examples."""
        if isinstance(model, Record):
            return self._recorded(model, train)
        model = model_of(model.train(train) if isinstance(model, Recipe) else model)
        if not isinstance(model, Model):
            raise MethodError(f"self-influence takes gradients of a model, and was given {type(model).__name__}.")
        model.task.check(train)
        measurement = Loss("mean" if self.train_loss == "mean" else "sum")
        total, told, coverage = np.zeros(len(train)), Told(), 1.0
        with measured() as cost:
            for number, stage in enumerate(model.stages()):
                at = model.at(stage)
                layout = layout_for(at, train, measurement, PROBE)
                coverage = layout.coverage
                for tile in feature_tiles(
                    at,
                    train,
                    self._compression(Evidence(at, train, measurement, layout, stage.moments), number),
                    measurement,
                    layout,
                    on_nonfinite=cast(OnNonfinite, self.on_nonfinite),
                ):
                    part = slice(tile.start, tile.start + len(tile.ids))
                    total[part] += stage.rate * self._squares(tile.features)
                    told.tile(tile)
        provenance = Provenance(
            method=self.name,
            parameters=self.parameters(),
            unit=self.unit,
            inputs={"model": model.name, "train": train.origin},
            model_fingerprint=model.fingerprint(),
            train_fingerprint=train.fingerprint(),
            coverage=coverage,
            seconds=cost.seconds,
            peak_memory=cost.peak_memory,
            notes=(*coverage_note(model), *told.notes()),
        )
        return Values.of(-total, train, provenance, raw={"self_influence": total})

    def _recorded(self, record: Record, train: Examples) -> Values:
        """From gradient norms that were taken during the run."""
        with measured() as cost:
            known = record.of(list(train.ids))
            rates = np.array(known.norm_rates, dtype=np.float64)
            if not len(rates) or not np.isfinite(rates).all():
                raise MethodError(
                    f"self-influence weighs gradient norms by the learning rate, and the record has {len(rates)} looks at "
                    f"gradients, {int(np.isfinite(rates).sum())} with their rate. Record them: Recorder(train, gradients=10), or "
                    "recorder.gradient_norms(model, rate)."
                )
            total = rates @ known.norms.astype(np.float64) ** 2
        provenance = Provenance(
            method=self.name,
            parameters=self.parameters(),
            unit=self.unit,
            inputs={"train": train.origin},
            train_fingerprint=train.fingerprint(),
            seconds=cost.seconds,
            peak_memory=cost.peak_memory,
            notes=(
                f"{len(rates)} looks at the gradients of a recorded run, exact, of the loss summed over tokens.",
                *known.notes,
            ),
        )
        return Values.of(-total, train, provenance, raw={"self_influence": total})

    def _compression(self, evidence: Evidence, number: int) -> Compression:
        """Exact squares are added up block by block, so that no gradient is kept."""
        chosen = parse(self.compression, self.seed)
        if isinstance(chosen, Identity):
            size = sum(block.size for block in evidence.layout.blocks)
            return Against(psi=torch.empty(0, size), squares=True)
        chosen = chosen.at(number)
        return chosen.fit(evidence) if isinstance(chosen, Fittable) else chosen

    def _squares(self, features: Float[Tensor, "n k"]) -> Float[np.ndarray, " n"]:
        """Squared length of each gradient."""
        if isinstance(parse(self.compression), Identity):
            return features[:, -1].double().numpy()
        return features.double().square().sum(1).numpy()
