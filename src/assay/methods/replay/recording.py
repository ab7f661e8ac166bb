"""What every method of the family starts from: a recipe's runs at their centres, recorded."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float64
from torch import Tensor

from assay.errors import MethodError
from assay.examples import Examples
from assay.gradients.features import notes
from assay.methods.centre import Centre
from assay.methods.replay.exact import twice_differentiable
from assay.methods.replay.smoothness import POOR, metasmoothness
from assay.methods.replay.tape import GIB, Tape
from assay.models import Model
from assay.provenance import Provenance, measured, peak_memory
from assay.training import Encoded, Recipe
from assay.training.store import Store


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
    seconds: float
    notes: tuple[str, ...]

    def told(self, queries: Encoded) -> tuple[str, ...]:
        """What the user must be told of the examples, these queries and the runs."""
        cut = sum(item.cut for data in (self.tapes[0].steps.data, queries) for item in data.items)
        return (*notes(cut, []), *self.notes)


def recorded(method: Any, recipe: Recipe, train: Examples) -> Recording:
    """The runs for a method with `removed`, `centres`, `memory`, `recompute`, `smoothness` and `directory`."""
    with measured() as cost, twice_differentiable():
        data = recipe.encode(train)
        weights = Centre(method.removed, method.centres).weights(len(data), recipe.seed)
        root = None if method.directory is None else Path(method.directory)
        folders = [None if root is None else root / f"centre-{number}" for number in range(len(weights))]
        tapes: list[Tape] = []
        for weight, folder in zip(weights, folders, strict=True):
            store = None if folder is None else Store(folder, identity(recipe, data, weight))
            memory, label = method.memory * GIB / len(weights), f"training {len(tapes) + 1} of {len(weights)}"
            tapes.append(Tape(recipe.steps(data, weight), memory, method.recompute, store, label))
        told = _smoothness_note(method.smoothness, recipe, data, weights[0])
        module = tapes[0].steps.module
        tapes[0].steps.restore(tapes[0].last)
        fingerprint = Model(module, recipe.task).fingerprint()
    name = type(module).__name__
    return Recording(recipe, train, tuple(tapes), tuple(folders), name, fingerprint, cost.seconds, told)


def identity(recipe: Recipe, data: Encoded, weights: Float64[Tensor, " n"]) -> dict[str, Any]:
    """What a run follows from, in terms of JSON."""
    digest = hashlib.sha256(weights.numpy().tobytes()).hexdigest()
    return {**recipe.facts(), "examples": data.examples.fingerprint(), "weights": digest}


def _smoothness_note(step: float, recipe: Recipe, data: Encoded, weights: Float64[Tensor, " n"]) -> tuple[str, ...]:
    if not step:
        return ()
    smooth = metasmoothness(recipe, data, weights, step)
    verdict = f"Metasmoothness of training at a step of {step:g} in the weights of half the examples: {smooth:.2f}."
    advice = (
        " Below 0.9 the derivative predicts little of such a removal: a smaller learning rate, warmup or a smoother "
        "activation helps, and so does removed= with centres=."
    )
    return (verdict + advice,) if smooth < POOR else (verdict,)


def provenance_of(
    method: Any, recording: Recording, queries: Examples, seconds: float, notes: Sequence[str]
) -> Provenance:
    """How a result of this recording came about."""
    return Provenance(
        method=method.name,
        parameters=method.parameters(),
        unit=method.score_unit(),
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
