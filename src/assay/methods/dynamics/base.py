"""What the methods from training dynamics share: where a record comes from, runs with other seeds, the result.

They take a record (`assay.Recorder` made it in a run of yours; several of them are several seeds), a recipe (which is trained
`runs` times), or a model with checkpoints (which are looked at one after the other). All values have the same sign: easy examples
are high, hard and suspicious ones low.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, cast

import numpy as np
from jaxtyping import Float

from assay.dynamics import Record, Recorder
from assay.dynamics.recorder import follow
from assay.errors import MethodError
from assay.examples import Examples
from assay.methods.base import ValueMethod, option
from assay.models import Model
from assay.provenance import Cost, Provenance, measured
from assay.training import Encoded, Recipe, model_of
from assay.values import Values


@dataclass(frozen=True, eq=False)
class Found:
    """What one run tells: each example's value, and the numbers behind it."""

    array: Float[np.ndarray, " n"]
    raw: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Repeated(ValueMethod):
    """A value that several runs of a recipe tell, each with a seed of its own."""

    family: ClassVar[str] = "dynamics"
    unit: ClassVar[str] = "arbitrary"

    runs: int = option(3, "of a recipe: trainings, each with a seed of its own; their spread gives the standard errors")

    def check(self) -> None:
        """Numbers out of range."""
        self.expect(self.runs >= 1, "runs", "at least 1")


class Dynamics(Repeated):
    """A value that follows from a record of a run."""

    @abstractmethod
    def of(self, record: Record) -> Found:
        """The values of one run. Raises MethodError for a record that lacks what they are made of."""

    @abstractmethod
    def recorded(self, recipe: Recipe, data: Encoded) -> Record:
        """Train once, and record what the method needs."""

    @abstractmethod
    def looked(self, model: Model, train: Examples) -> Record:
        """The same of the checkpoints of a trained model."""

    def value(self, model: Any, train: Examples, on: Examples | None = None) -> Values:
        """Values of the training examples; needs no validation examples.

        Raises MethodError for what is no record, recipe or model, or a record of other examples.
        """
        subject = model_of(model)
        with measured() as cost:
            records, model = self.records(subject, train)
            found = [self.of(record) for record in records]
        notes = (*told(records), *found[0].notes)
        return valued(self, found, train, facts_of(model, train), notes, cost)

    def records(self, subject: Any, train: Examples) -> tuple[list[Record], Model | None]:
        """A record for each run; and the model, if one was given."""
        if isinstance(subject, Recipe):
            data = subject.encode(train)
            runs = [self.recorded(replace(subject, seed=subject.seed + k), data) for k in range(self.runs)]
            return runs, Model(subject.initial(), subject.task)
        if isinstance(subject, Model):
            subject.task.check(train)
            return [self.looked(subject, train)], subject
        given = cast(list[Any], [subject] if isinstance(subject, Record) else subject)
        if type(given) in (list, tuple) and given and all(isinstance(one, Record) for one in given):
            return [one.of(list(train.ids)) for one in given], None
        raise MethodError(
            f"{self.name} takes a record of a run (assay.Record, --recorded DIR), a recipe, or a model with checkpoints, and was "
            f"given {type(subject).__name__}."
        )


@dataclass(frozen=True)
class Observed(Dynamics):
    """A value that follows from observations of the logits."""

    least: ClassVar[int] = 1
    """Observations of each example that are needed."""

    evaluations: int = option(
        0, "of a recipe: evaluate all examples so many times, spread evenly; 0: record each batch as it is trained on"
    )

    def check(self) -> None:
        """Numbers out of range."""
        super().check()
        self.expect(self.evaluations >= 0, "evaluations", "0 or more")

    def until(self, recipe: Recipe, total: int) -> int:
        """After how many steps the method has seen enough."""
        return total

    def recorded(self, recipe: Recipe, data: Encoded) -> Record:
        """Batches of the run, or evaluations."""
        recorder = Recorder(data.examples, evaluations=self.evaluations)
        total = recipe.order(len(data)).total
        follow(recorder, recipe, data, self.until(recipe, total), f"{self.name}: training")
        return recorder.record

    def looked(self, model: Model, train: Examples) -> Record:
        """An evaluation at each checkpoint."""
        recorder = Recorder(train)
        for number, stage in enumerate(model.stages(), 1):
            recorder.evaluate(model.at(stage), number)
        return recorder.record

    def column(self, record: Record, name: str, least: int | None = None) -> Float[np.ndarray, "k n"]:
        """A column of the observations, in float64. Raises MethodError where examples have too few."""
        least, counts = self.least if least is None else least, record.observations
        if int(counts.min()) < least:
            first = int(counts.argmin())
            raise MethodError(
                f"{self.name} needs {least} observations of every example, and {record.ids[first]} has {int(counts[first])}. Train "
                "or record for more epochs, evaluate more often (evaluations=10), or give more checkpoints."
            )
        return record.column(name).astype(np.float64)


# -- the result --------------------------------------------------------------------------------------------------------


def valued(
    method: Repeated,
    found: Sequence[Found],
    train: Examples,
    facts: Mapping[str, Any],
    notes: tuple[str, ...],
    cost: Cost,
) -> Values:
    """Means over the runs, with their standard errors if there are several."""
    arrays = np.array([one.array for one in found], dtype=np.float64)
    stderr = arrays.std(0, ddof=1) / np.sqrt(len(arrays)) if len(arrays) > 1 else None
    provenance = Provenance(
        method=method.name, parameters=method.parameters(), unit=method.unit, train_fingerprint=train.fingerprint(),
        seconds=cost.seconds, peak_memory=cost.peak_memory, notes=notes, **facts,
    )  # fmt: skip
    raw = {name: np.asarray(np.mean([one.raw[name] for one in found], 0)) for name in found[0].raw}
    return Values.of(arrays.mean(0), train, provenance, stderr, raw)


def facts_of(model: Model | None, train: Examples) -> dict[str, Any]:
    """What a provenance says of the model and the data."""
    if model is None:
        return {"inputs": {"train": train.origin}}
    return {"inputs": {"model": model.name, "train": train.origin}, "model_fingerprint": model.fingerprint()}


def told(records: Sequence[Record]) -> tuple[str, ...]:
    """What the values were made of, and what the records note."""
    seen = [int(record.observations.max(initial=0)) for record in records]
    kinds = {record.kind for record in records}
    runs = f"{len(records)} run{'s' * (len(records) > 1)}"
    made = (
        f"{runs}, {max(seen)} observations of each example at most ({' and '.join(sorted(kinds))})."
        if max(seen)
        else f"{runs}."
    )
    return (made, *dict.fromkeys(note for record in records for note in record.notes))
