"""Tail patch: continue training for a few steps on each query's top k, and see what becomes of the query's loss.

    theta_0 = the model,   theta_{t+1} = theta_t - rate * Adam(grad of (1/k) * sum over i in S of L_i(theta_t)),   t < steps
    change(q) = L_q(theta_steps) - L_q(theta_0)

for S = the top k of each result, of BM25, of embeddings, and k at random. Lower is better: the loss fell. It is one step further
from the first-order check (`one_step`) towards retraining: real steps of an optimiser, along which the gradients move; Adam's steps
have about one length, whatever the size of the set's gradients. It asks what the examples *would* teach the model now, not what they
taught it.

Source: Chang et al., Scalable Influence and Fact Tracing for Large Language Model Pretraining, 2024 (arXiv 2410.17413), section 5.1,
who take one step on each example alone and average; here one model is trained on all k, for `steps` steps.
The rate is found without a look at the queries: halved from 0.01 until every step on k random training examples lowers their loss.
Interval: over queries. Cost: queries x sets x steps x k gradients with weights, and a copy of the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float64

from assay import progress
from assay.errors import MethodError, NonFiniteError
from assay.evaluate.metrics.comparison import Comparison, compare
from assay.evaluate.sets import Sets, named_sets, random_rows
from assay.examples import Examples
from assay.methods.gradient.base import losses
from assay.models import Model
from assay.scores import Scores
from assay.tasks import Loss
from assay.training import Recipe

HIGHEST, HALVINGS = 1e-2, 20
"""First rate tried; halvings at most."""


def tail_patch(
    model: Model,
    train: Examples,
    results: Scores | Sequence[Scores] | Mapping[str, Scores],
    queries: Examples,
    k: int = 10,
    steps: int = 4,
    lr: float | None = None,
    seed: int = 0,
) -> Comparison:
    """Change of the queries' loss after `steps` steps on each set, in nats; of a text the mean over its tokens.

    Raises MethodError: scores of other examples, k or steps out of range. ModelError, DataError: from training.
    """
    sets = named_sets(results, train, queries, k, model, seed)
    recipe = patch_recipe(model, train, k, steps, lr, seed)
    changes = patch_changes(recipe, train, queries, sets)
    return patch_comparison(recipe, k, changes, seed)


def patch_recipe(
    model: Model, train: Examples, k: int, steps: int = 4, lr: float | None = None, seed: int = 0
) -> Recipe:
    """How training goes on from the model: Adam on all k examples in each of `steps` steps."""
    if steps < 1:
        raise MethodError(f"steps is {steps}; at least 1 was expected.")
    recipe = Recipe(model.module, model.task, optimizer="adam", epochs=steps, batch_size=k, seed=seed, lr=lr or HIGHEST)
    return recipe if lr is not None else replace(recipe, lr=_rate(recipe, train.select(random_rows(train, k, seed))))


def patch_changes(
    recipe: Recipe, train: Examples, queries: Examples, sets: Sets
) -> dict[str, Float64[np.ndarray, " q"]]:
    """Change of each query's loss after the recipe trained on its rows of each set; 0 for no rows."""
    changes = {name: np.zeros(len(queries)) for name in sets}
    before = _losses(recipe, queries)
    with progress.task("tail patch", len(queries) * len(sets)) as advance:
        for q in range(len(queries)):
            for name, rows in sets.items():
                if rows[q]:
                    with progress.shown(False):
                        trained = recipe.train(train.select(rows[q]))
                    changes[name][q] = float(trained.loss_of(queries[q : q + 1])[0]) - before[q]
                advance()
    return changes


def patch_comparison(recipe: Recipe, k: int, changes: Mapping[str, Float64[np.ndarray, " q"]], seed: int) -> Comparison:
    """The first set against the others."""
    facts = {"k": k, "steps": recipe.epochs, "lr": recipe.lr}
    contributions = {name: values[:, None] for name, values in changes.items()}
    what = f"change of the query's loss after {recipe.epochs} steps on the top {k}"
    return compare(what, "nats of query loss", contributions, changes, facts, seed, higher=False)


def _rate(recipe: Recipe, sample: Examples) -> float:
    """The highest rate of the halvings at which each step on the sample lowers its loss."""
    rate = recipe.lr
    for _ in range(HALVINGS):
        try:
            with progress.shown(False):
                run = replace(recipe, lr=rate).train(sample)
        except NonFiniteError:
            rate /= 2
            continue
        end = float(run.loss_of(sample, Loss("sum")).mean())
        if bool((torch.cat([run.losses, torch.tensor([end], dtype=torch.float64)]).diff() < 0).all()):
            break
        rate /= 2
    return rate


def _losses(recipe: Recipe, queries: Examples) -> list[float]:
    return losses(Model(recipe.initial(), recipe.task), queries).tolist()
