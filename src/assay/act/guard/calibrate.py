"""Lambda from cases whose answer is known: how much does an output lose without what it did not need, and without what it did?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from assay.act.guard.propagate import Settings, largest_drop, stays_first
from assay.act.guard.scorers import Prompt, asked_of
from assay.errors import InputError, MethodError
from assay.examples import Examples, read
from assay.inference import Likelihood, Local
from assay.models import Model


@dataclass(frozen=True)
class Drops:
    """Nats that one token loses at most, of several outputs.

    `irrelevant`: without all documents that they did not need; infinite where a token stops being the model's choice, so
    that no lambda would do. `needed`: given all documents but the one that they did need. `unnoticed`: the same where every
    choice of the model stays, so that only lambda can keep the document; infinite where one changes.
    """

    irrelevant: Float64[np.ndarray, " n"]
    needed: Float64[np.ndarray, " n"]
    unnoticed: Float64[np.ndarray, " n"]


def drops(model: Model, documents: Sequence[Any], queries: Any, needed: Sequence[int], **settings: Any) -> Drops:
    """Of queries with completions: `documents[k]` are query k's, of which it needs number `needed[k]`. By the prompt."""
    queries, template = read(queries), Settings(**settings).template
    _ = Local(model).task
    rows = [_drop(model, read(texts), queries, k, needed[k], template) for k, texts in enumerate(documents)]
    array = np.array(rows).reshape(-1, 3)
    return Drops(array[:, 0], array[:, 1], array[:, 2])


def _drop(model: Model, texts: Examples, queries: Examples, k: int, one: int, template: str) -> list[float]:
    query = queries[k]
    scorer = Prompt(asked_of(model, None), tuple(texts.texts), str(query.data["prompt"]), template)
    every = tuple(range(len(texts)))
    others = tuple(other for other in every if other != one)
    full, alone, without = scorer.read(str(query.data["completion"]), [every, (one,), others])
    return [_noticed(full, alone), largest_drop(full, without), _noticed(full, without)]


def _noticed(full: Likelihood, some: Likelihood) -> float:
    """The least lambda at which some documents suffice."""
    return largest_drop(full, some) if stays_first(full, some) else np.inf


def calibrate(found: Drops) -> float:
    """A lambda that keeps every needed document of these cases and drops as many others as it can.

    Where likelihoods alone tell needed from irrelevant: midway between the largest irrelevant drop and half of the smallest
    needed one. Where they overlap: the largest irrelevant drop, but no more than half of the smallest needed one that
    the model's choice does not notice. Drops at which the choice changes need no lambda and limit none. Raises InputError,
    MethodError where needed documents make no difference or others always do.
    """
    if not len(found.needed):
        raise InputError("Lambda cannot be calibrated on no case; give some whose needed document is known.")
    least = float(found.unnoticed.min())
    if least <= 0:
        raise MethodError(
            f"Without its needed document every token of an output became likelier, by at least {-least:.3g} nats, and each that "
            "was likeliest stayed so; no lambda tells needed from irrelevant: this model does not use the documents. Take a "
            "stronger one."
        )
    useful = found.irrelevant[np.isfinite(found.irrelevant)]
    if not len(useful):
        raise MethodError(
            "Given its needed document alone each output loses a token that was the model's choice, so no lambda makes a label "
            "smaller: this model does not tell needed from irrelevant. Take a stronger one, or shorter outputs."
        )
    largest, clear = float(max(useful.max(), 0.0)), float(found.needed.min()) / 2
    return (largest + clear) / 2 if largest < clear else min(largest, least / 2)
