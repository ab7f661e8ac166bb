"""Which method to use: the affordable ones are tried on a sample of the user's data, and judged as any run is (`trust`).

The sample has some queries and training examples: BM25's best for these queries (so that there is something to find), and
others at random. A method is affordable if `assay.plan` (or, where it knows no cost, a trial on 8 examples) says that it
fits into its share of the time. Named is the cheapest method that is not clearly worse than the best one: 97.5% of
resamples do not favour the best.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from assay import progress
from assay.errors import InputError, MethodError
from assay.evaluate.one_step import baseline_rows
from assay.evaluate.trust import SURE, Trust, trust
from assay.examples import Examples, read
from assay.methods import METHODS, Method, Random, Registered, find
from assay.methods.lexical.bm25 import BM25
from assay.models import Model
from assay.runtime import plan
from assay.scores import Scores

OF_MODELS, OF_RECIPES = ("gradient", "lexical"), ("unrolling", "replay")
"""Families of methods that are tried; the second where there is a recipe."""
EXAMPLES, QUERIES, FOUND = 256, 12, 8
"""Of the sample; and how many of BM25's best are in it for each query."""
TRIAL = 8
"""Examples on which a method is timed whose cost cannot be planned."""


@dataclass(frozen=True)
class Recommendation:
    """The method to use, and why.

    Args:
        method: its name.
        seconds: by method, what it took on the sample.
        whole: by method, what it is predicted to take on all examples and queries.
        left_out: by method, why it was not tried.
        trust: the evidence, on the sample.
    """

    method: str
    seconds: Mapping[str, float]
    whole: Mapping[str, float]
    left_out: Mapping[str, str]
    trust: Trust = field(repr=False)

    @property
    def text(self) -> str:
        """A plain statement."""
        best = self.trust.methods[0]
        why = "the best" if self.method == best else f"the cheapest that is not clearly worse than {best}"
        return f"Use {self.method}: {why} of {len(self.seconds)} methods tried. {self.trust.text}"


def recommend(
    model: Model,
    train: Any,
    queries: Any,
    minutes: float = 5.0,
    methods: Sequence[str | Registered] | None = None,
    recipe: Any = None,
    k: int = 10,
    seed: int = 0,
) -> Recommendation:
    """Try `methods` (by default all that attribute, with their defaults) on a sample within `minutes`, and name one.

    Raises MethodError if none could be tried. DataError, ModelError.
    """
    if not minutes > 0:
        raise MethodError(f"minutes is {minutes}; a number above 0 was expected.")
    train, queries = read(train), read(queries)
    start = time.perf_counter()
    few, asked = _sample(model, train, queries, seed)
    candidates = [find(kind() if isinstance(kind, type) else kind) for kind in (methods or _registered())]
    results: dict[str, Scores] = {}
    seconds: dict[str, float] = {}
    whole: dict[str, float] = {}
    left_out: dict[str, str] = {}
    half = 30 * minutes
    costs: dict[str, float] = {}
    for method in candidates:
        try:
            costs[method.name] = _cost(method, _subject(method, model, recipe), few, asked)
        except InputError as error:
            left_out[method.name] = str(error)
    for method in sorted(candidates, key=lambda method: costs.get(method.name, 0.0)):
        if method.name in left_out or not isinstance(method, Method):
            continue
        if time.perf_counter() - start + costs[method.name] > half:
            left_out[method.name] = f"it would take about {costs[method.name]:.0f} s on the sample"
            continue
        began = time.perf_counter()
        try:
            results[method.name] = method.fit(_subject(method, model, recipe), few).score(asked)
        except InputError as error:
            left_out[method.name] = str(error)
            continue
        seconds[method.name] = time.perf_counter() - began
        whole[method.name] = _whole(
            method, _subject(method, model, recipe), train, queries, seconds[method.name] * len(train) / len(few)
        )
    if not results:
        raise MethodError(f"No method could be tried in {minutes:g} minutes: {left_out}. Give more time, or methods.")
    left = max(minutes - (time.perf_counter() - start) / 60, 0.1 * minutes)
    found = trust(model, few, asked, results, left, recipe, None, k, seed)
    return Recommendation(_chosen(found, whole), seconds, whole, left_out, found)


def _registered() -> list[type[Registered]]:
    known = (*OF_MODELS, *OF_RECIPES)
    return [kind for kind in METHODS if issubclass(kind, Method) and kind.family in known and kind is not Random]


def _subject(method: Registered, model: Model, recipe: Any) -> Any:
    """What the method takes. Raises MethodError for one that follows training, if there is no recipe."""
    if method.family not in OF_RECIPES:
        return model
    if recipe is None:
        raise MethodError("it follows training, and no recipe was given (recipe=, --recipe)")
    return recipe


def _sample(model: Model, train: Examples, queries: Examples, seed: int) -> tuple[Examples, Examples]:
    """Some queries, and examples of which BM25's best for them are part."""
    rng = np.random.default_rng(seed)
    asked = queries.select(np.sort(rng.permutation(len(queries))[:QUERIES]))
    model.task.check(train)
    if len(train) <= EXAMPLES:
        return train, asked
    found = [] if train.kind == "arrays" else baseline_rows(BM25(), train, asked, FOUND)
    near = list(dict.fromkeys(row for rows in found for row in rows))
    rest = [row for row in rng.permutation(len(train)).tolist() if row not in set(near)]
    return train.select(sorted([*near, *rest][:EXAMPLES])), asked


def _cost(method: Registered, model: Any, train: Examples, queries: Examples) -> float:
    """Seconds on the sample: planned, or else tried on a few examples. Raises InputError for a method that does not apply."""
    if not isinstance(method, Method):
        raise MethodError(f"'{method.name}' gives values, not scores.")
    try:
        return plan(model, train, queries, method).seconds
    except MethodError:
        few, start = train[:TRIAL], time.perf_counter()
        with progress.shown(False):
            method.fit(model, few).score(queries[:2])
        return (time.perf_counter() - start) * len(train) / len(few)


def _whole(method: Method, model: Model, train: Examples, queries: Examples, otherwise: float) -> float:
    try:
        return plan(model, train, queries, method).seconds
    except MethodError:
        return otherwise


def _chosen(found: Trust, whole: Mapping[str, float]) -> str:
    """The cheapest of those that the best one does not clearly beat; a trusted one before others."""
    best = found.methods[0]
    deciding = found.checks[found.decided_by][best]
    level = [best, *(name for name in found.methods[1:] if deciding.better(name) < SURE)]
    trusted = [name for name in level if found.verdicts[name] == "trust"]
    return min(trusted or level, key=lambda name: whole[name])
