"""Randomised model: scores must depend on what the model learned.

    correlation(q) = Spearman over i of (score(i, q) under the model, score(i, q) under a model of random weights)

A method whose scores survive when the weights are drawn anew explains the architecture and the words, not the training
(Adebayo et al., Sanity Checks for Saliency Maps, 2018, section 3, for data attribution). Lexical baselines have correlation 1: they
never look. Some correlation is right, as gradients of equal inputs point alike under any weights: `passed` says that the interval
of the mean lies below 0.5, a quarter of the ranking's variance.

`reinitialised` makes such a model: the entries of every weight tensor are permuted at random, so that each keeps its scale and
distribution and nothing that was learned. Interval: over queries. Cost: one more attribution.
"""

import copy
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from assay.errors import MethodError, ModelError
from assay.evaluate.metrics.comparison import Comparison, compare
from assay.evaluate.metrics.lds import spearman
from assay.evaluate.metrics.ranks import check_ranked_columns, check_same
from assay.examples import Examples
from assay.methods import Method, find
from assay.models import Model
from assay.scores import Scores

PASSES = 0.5
"""Correlation below which the check is passed."""
ALIKE, LEAST = 0.5, 32
"""Correlation of two weight tensors of at least so many entries above which one was not drawn anew."""


def randomised(
    scores: Scores, model: Model, train: Examples, queries: Examples, other: Model | None = None, seed: int = 0
) -> Comparison:
    """Correlation of `scores` with those of the same method on `other`, by default `reinitialised(model, seed)`.

    Raises ModelError for another architecture, or for a model that was not randomised; MethodError for constant scores, or
    a method that cannot be made again from its parameters.
    """
    other = reinitialised(model, seed) if other is None else other
    check_randomised(model, other)
    method = find(scores.method, **scores.provenance.parameters)
    if not isinstance(method, Method):
        raise MethodError(f"'{method.name}' gives values, not scores; this check compares scores.")
    again = method.fit(other, train).score(queries)
    return randomised_correlation(scores, again, seed)


def randomised_correlation(scores: Scores, again: Scores, seed: int = 0) -> Comparison:
    """The metric from both results."""
    check_same({"the model's": scores, "the randomised model's": again})
    for what, result in (("The method", scores), ("The method on the randomised model", again)):
        check_ranked_columns(result.array, result.query_ids, what)
    found: Float64[np.ndarray, " q"] = spearman(scores.array, again.array)
    comparison = compare(
        "correlation with the scores of a randomised model", "Spearman correlation", {scores.method: found[:, None]},
        {scores.method: found}, {}, seed, higher=False,
    )  # fmt: skip
    facts: dict[str, Any] = {"passed": comparison.first.high < PASSES, "limit": PASSES}
    return Comparison(
        comparison.metric, comparison.unit, comparison.rows, {}, comparison.per_query, facts, higher=False
    )


def reinitialised(model: Model, seed: int = 0) -> Model:
    """A copy of the model as it is now whose weights are permuted within each tensor, frozen ones included."""
    module = copy.deepcopy(model.module)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in _weights(module).values():
            order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
            tensor.copy_(tensor.flatten()[order].view_as(tensor))
    return Model(module, model.task, modules=model.patterns, name=f"{model.name}, randomised")


def check_randomised(model: Model, other: Model) -> None:
    """Raise ModelError if `other` has other weight tensors, or kept some that the model has."""
    mine, theirs = _weights(model.module), _weights(other.module)
    if {name: w.shape for name, w in mine.items()} != {name: w.shape for name, w in theirs.items()}:
        raise ModelError(
            "The randomised model has other weights by name or shape than the model; give the same architecture with "
            "weights drawn anew, or leave it out."
        )
    kept = [name for name, weight in mine.items() if _alike(weight, theirs[name])]
    if kept:
        raise ModelError(
            f"{len(kept)} of {len(mine)} weight tensors of the randomised model are those of the model, or nearly "
            f"(for example {kept[0]}), so it was not randomised. Draw all weights anew, or leave it out."
        )


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in module.named_parameters() if p.is_floating_point()}


def _alike(one: Tensor, other: Tensor) -> bool:
    """Equal, or correlated. Tensors of one value (a norm's ones, a bias of zeros) and of few entries say nothing."""
    if one.numel() < 2 or bool((one == one.flatten()[0]).all()):
        return False
    if one.numel() < LEAST:
        return bool(torch.equal(one, other)) and one.numel() > 4
    a, b = (w.double().flatten() - w.double().mean() for w in (one, other.to(one.device)))
    norm = float(a.square().sum() * b.square().sum()) ** 0.5
    return norm > 0 and abs(float(a @ b)) / norm > ALIKE
