"""The centre: the run at which a method takes its derivative, chosen by the counterfactual that is asked about.

A score predicts what happens when examples are removed. A derivative predicts it best near the weights w at which it is
taken, and the mean of the subsets that lack a share r of the examples is not w = 1 but

    centres = 1    w = 1 - r for every example: one run at the mean of those subsets
    centres = m    w = 0 or 1: m runs on random subsets that lack the share r, whose scores are averaged

The share 0 is the run on all data: right for removing an example or a few. A row outside a subset has weight 0 there and
still gets a score, the derivative by its weight. Scales are those of J = (1/N) sum_i w_i L_i at every centre: a method
that divides by the curvature of all examples at weight 1 has its scores divided by 1 - r, the curvature's share that is
left. Plain formulas have no unit and stay as they are. Under Adam a uniform weight nearly cancels (its steps have no
scale), and subsets say more. Cost: one training run a centre, and the method's own cost for each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from assay.errors import MethodError
from assay.examples import Examples
from assay.methods.base import Fitted
from assay.provenance import Provenance
from assay.ranking import TopK
from assay.scores import Scores
from assay.training import Recipe, Run
from assay.values import Values

REMOVED = "share of the training data that the question removes, 0 to below 1; with a recipe, scores are taken there"
CENTRES = "training runs whose scores are averaged: 1 with all weights 1 - removed, more on random subsets"
STREAM = 0x5EED


@dataclass(frozen=True)
class Centre:
    """Which counterfactual: `removed` the share left out, `centres` how many runs stand for it."""

    removed: float = 0.0
    centres: int = 1

    def problem(self) -> tuple[str, str] | None:
        """The parameter that is out of range and what was expected of it, if one is."""
        if not 0 <= self.removed < 1:
            return "removed", "a share of at least 0 and below 1"
        if self.centres < 1:
            return "centres", "at least 1"
        if self.centres > 1 and self.removed == 0:
            return "centres", "1 where nothing is removed (removed=0), as all runs would be the same"
        return None

    def weights(self, n: int, seed: int) -> list[Float64[Tensor, " n"]]:
        """The weights of n examples in each run."""
        if self.centres == 1:
            return [torch.full((n,), 1.0 - self.removed, dtype=torch.float64)]
        kept = max(1, round(n * (1 - self.removed)))
        return [self._subset(n, kept, seed, number) for number in range(self.centres)]

    def _subset(self, n: int, kept: int, seed: int, number: int) -> Float64[Tensor, " n"]:
        rows = np.random.default_rng((seed, STREAM, number)).permutation(n)[:kept]
        weights = torch.zeros(n, dtype=torch.float64)
        weights[torch.from_numpy(rows)] = 1.0
        return weights


def check_centre(method: Any) -> None:
    """Raise MethodError unless the method's `removed` and `centres` are in range."""
    problem = Centre(method.removed, method.centres).problem()
    if problem is not None:
        method.expect(False, *problem)


def fit_at_centres(method: Any, recipe: Recipe, train: Examples, fit: Callable[[Run, Examples], Fitted]) -> Fitted:
    """Train at each centre of the method and `fit` to each run; several fitted become one that averages."""
    data = recipe.encode(train)
    weights = Centre(method.removed, method.centres).weights(len(train), recipe.seed)
    runs = [
        recipe.train(data, weight, label=f"training {number} of {len(weights)}")
        for number, weight in enumerate(weights, start=1)
    ]
    fitted = [fit(run, train) for run in runs]
    scale = 1.0 if method.unit == "arbitrary" else 1.0 / (1.0 - method.removed)
    return Averaged(fitted, str(recipe), sum(run.seconds for run in runs), scale)


def check_no_centre(method: Any, given: Any) -> None:
    """Raise MethodError for a counterfactual that was asked about without a recipe to train anew."""
    if (method.removed, method.centres) != (0, 1):
        raise MethodError(
            f"{method.name} was given removed={method.removed} and centres={method.centres}, for which the model is "
            f"trained anew; that takes an assay.Recipe, and {type(given).__name__} was given. Give the recipe, or leave "
            "them out."
        )


@dataclass(frozen=True)
class Averaged(Fitted):
    """A method fitted at several centres: `scale` times the mean of its scores. `seconds` is what training took."""

    fitted: Sequence[Fitted]
    recipe: str
    seconds: float
    scale: float = 1.0

    def score(self, queries: Examples, top: int | None = None) -> Scores:
        """The mean score of every training example for every query, or the `top` best at both ends."""
        found = [fitted.score(queries) for fitted in self.fitted]
        mean = np.stack([scores.array for scores in found]).mean(0, dtype=np.float64)
        mean = (mean * self.scale).astype(np.float32)
        entries = mean if top is None else TopK.of_columns(iter(mean.T), top)
        provenance = self._provenance([scores.provenance for scores in found])
        return Scores.of(entries, found[0].train, found[0].queries, provenance)

    def value(self, on: Examples) -> Values:
        """The mean value of every training example."""
        found = [fitted.value(on) for fitted in self.fitted]
        mean = self.scale * np.mean([values.array for values in found], axis=0)
        return Values.of(mean, found[0].train, self._provenance([values.provenance for values in found]))

    def _provenance(self, parts: Sequence[Provenance]) -> Provenance:
        """That of the first, with the time of all, and the recipe."""
        first = parts[0]
        return replace(
            first,
            inputs={**first.inputs, "recipe": self.recipe},
            seconds=self.seconds + sum(part.seconds for part in parts),
            peak_memory=max(part.peak_memory for part in parts),
            notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        )
