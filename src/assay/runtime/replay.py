"""Replay: the run, recorded; then its adjoint, step by step back, all queries in one batch.

    step back = graph of the gradient (forward, backward, both recorded) + q * (products of the second derivative)

A layer's three products (forward, to its inputs, to its weights) have two derivatives each: six products a query; four with the
Gauss-Newton matrix (`PRODUCTS`).
"""

import math
from dataclasses import replace

from assay.examples import Examples
from assay.methods import Replay, ReplayIndex
from assay.methods.replay.adjoint import NUMBERS
from assay.methods.replay.index import HELD_OUT
from assay.runtime.steps import Plan, Step
from assay.runtime.training import Subject, batch_of, run_seconds, step_seconds, steps_of
from assay.runtime.work import Work
from assay.runtime.workload import Data, data_of
from assay.training import Recipe

PRODUCTS = {"exact": 6, "gauss-newton": 4}
"""Products of matrices a layer and query in a step back."""
CONVOLVED = 2
"""Times that a product of a convolution takes longer there."""
PULLED = {"sgd": 8, "adam": 24, "adamw": 24}
"""Times that each number of each query's adjoint is read or written in a step."""
REMEMBERED = {"sgd": 0, "adam": 2, "adamw": 2}
"""Numbers that an optimiser remembers for each parameter; one more for SGD with momentum."""
GIB = 2**30


def plan_replay(given: Subject, train: Examples, queries: Examples, method: Replay) -> Plan:
    """Of an attribution by a recipe."""
    recipe = given.recipe
    assert recipe is not None
    work, asked = Work(given.model, train), data_of(given.model, queries)
    count, ends, steps = asked.examples, asked.examples, steps_of(recipe, len(train))
    if isinstance(method, ReplayIndex):
        ends += min(method.sample, len(train))
        count = min(method.rank, method.sample) + HELD_OUT
    kept = 4 * work.numbers * (1 + remembered(recipe))
    depth = depth_of(steps, kept, method)
    runs = given.runs * (1 + (2 if method.smoothness else 0))
    found = [
        Step("training, recorded", runs * run_seconds(work, recipe)),
        Step("training again, from snapshots", given.runs * (depth - 1) * run_seconds(work, recipe)),
        Step("gradients of the queries", given.runs * ended(work, asked, ends)),
        Step("adjoints of the steps", given.runs * adjoint_seconds(work, recipe, count, products=method.products)),
    ]
    states = depth * math.ceil(steps ** (1 / depth)) * kept
    memory = states + adjoint_bytes(work, recipe, count, method.memory * GIB) + 4 * ends * work.numbers
    note = f"{steps:,} steps, states held at {depth} levels."
    return work.planned(method.name, found, memory, 0, (note,))


def remembered(recipe: Recipe) -> int:
    """Numbers that the optimiser remembers for each parameter."""
    return REMEMBERED.get(recipe.optimizer, 2) + (recipe.optimizer == "sgd" and recipe.momentum > 0)


def depth_of(steps: int, kept: float, method: Replay) -> int:
    """Levels of snapshots: as few as memory allows, unless told."""
    if method.recompute is not None:
        return min(method.recompute + 1, max(1, math.ceil(math.log2(max(2, steps)))))
    for depth in range(1, 32):
        if depth * math.ceil(steps ** (1 / depth)) * kept <= method.memory * GIB:
            return depth
    return 32


def ended(work: Work, asked: Data, count: int) -> float:
    """Each query's gradient at the end, by a pass of its own."""
    return work.floor(batch_of(asked, 1), 3.0) * count + work.encoded(asked)


def adjoint_seconds(work: Work, recipe: Recipe, queries: int, share: float = 1.0, products: str = "exact") -> float:
    """The way back over all steps, or a share of them."""
    size = min(recipe.batch_size, len(work.train))
    graph = step_seconds(work, recipe, 3.0)
    twice = PRODUCTS[products] * (CONVOLVED if work.network.applied > 1 else 1)
    second = work.floor(replace(batch_of(work.data, size), batches=0), twice)
    pulled = work.moved(PULLED.get(recipe.optimizer, 24) * work.numbers)
    return share * steps_of(recipe, len(work.train)) * (graph + work.traced() + queries * (second + pulled))


def adjoint_bytes(work: Work, recipe: Recipe, queries: int, most: float) -> float:
    """Adjoints with their moments, the scores so far, and the part of the queries that is worked on."""
    each = 4 * work.numbers * (1 + remembered(recipe))
    together = max(1, int(min(queries, most / each)))
    saved = 6 * work.network.held * work.data.positions / work.data.examples * recipe.batch_size
    part = max(NUMBERS["cpu"], work.numbers + saved)
    return together * each + 8 * queries * len(work.train) + 4 * 6 * min(part, together * (work.numbers + saved))
