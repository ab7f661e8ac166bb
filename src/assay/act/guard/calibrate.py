"""Lambda from cases whose answer is known: how much does an output lose without what it did not need, and without what it did?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from assay.act.guard.propagate import Settings, largest_drop
from assay.act.guard.scorers import Prompt, asked_of
from assay.errors import InputError, MethodError
from assay.examples import Examples, read
from assay.inference import Local
from assay.models import Model


@dataclass(frozen=True)
class Drops:
    """Nats that one token loses at most, of several outputs: without all documents that they did not need, and without the one
    that they did.
    """

    irrelevant: Float64[np.ndarray, " n"]
    needed: Float64[np.ndarray, " n"]


def drops(model: Model, documents: Sequence[Any], queries: Any, needed: Sequence[int], **settings: Any) -> Drops:
    """Of queries with completions: `documents[k]` are query k's, of which it needs number `needed[k]`. By the prompt."""
    queries, template = read(queries), Settings(**settings).template
    _ = Local(model).task
    rows = [_drop(model, read(texts), queries, k, needed[k], template) for k, texts in enumerate(documents)]
    array = np.array(rows)
    return Drops(array[:, 0], array[:, 1])


def _drop(model: Model, texts: Examples, queries: Examples, k: int, one: int, template: str) -> tuple[float, float]:
    query = queries[k]
    scorer = Prompt(asked_of(model, None), tuple(texts.texts), str(query.data["prompt"]), template)
    every = tuple(range(len(texts)))
    full, alone, without = scorer.logs(
        str(query.data["completion"]), [every, (one,), tuple(other for other in every if other != one)]
    )
    return largest_drop(full, alone), largest_drop(full, without)


def calibrate(found: Drops) -> float:
    """A lambda that keeps every needed document of these cases and drops as many others as it can: half of the smallest needed
    drop, but no more than the largest irrelevant one needs. Raises InputError where needed documents make no difference.
    """
    if not len(found.needed):
        raise InputError("Lambda cannot be calibrated on no case; give some whose needed document is known.")
    least, largest = float(found.needed.min()), float(max(found.irrelevant.max(), 0.0))
    if least <= 0:
        raise MethodError(
            f"Without its needed document every token of an output became likelier, by at least {-least:.3g} nats, so no lambda "
            "tells needed from irrelevant: this model does not use the documents. Take a stronger one."
        )
    return least / 2 if largest >= least / 2 else (largest + least / 2) / 2
