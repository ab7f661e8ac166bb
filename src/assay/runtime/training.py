"""Training runs: what a recipe costs, and how often methods that train again train.

run = epochs * (forward and both backward passes of all examples) + steps * (modules, optimiser's numbers)
"""

import math
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

from assay.errors import MethodError
from assay.methods import AME, Datamodel, LeastCore, LeaveOneOut, OwenShapley, Registered
from assay.methods.retrain.base import Retraining
from assay.methods.retrain.groups import players_of
from assay.methods.retrain.samplers.base import Walk
from assay.methods.retrain.semivalue import Semivalue, horizon, sampler_of
from assay.methods.retrain.stopping import AllOf, AnyOf, Stop, Updates, parse_stop
from assay.models import Checkpoint, Model
from assay.moments import AdamMoments
from assay.runtime.steps import Plan, Step
from assay.runtime.work import Work
from assay.runtime.workload import Data
from assay.training import Recipe

UPDATED = {"sgd": 6, "adam": 18, "adamw": 20}
"""Times that an optimiser reads or writes each number of the parameters in a step."""


@dataclass(frozen=True)
class Subject:
    """A model; and the recipe that it is yet to be trained by, so many times."""

    model: Model
    recipe: Recipe | None = None
    runs: int = 0


def subject(given: Any, method: Registered) -> Subject:
    """What a method was given. A recipe's model has its checkpoints by name; none of them can be loaded."""
    if not isinstance(given, Recipe):
        return Subject(given)
    module = given.initial()
    moments = _unknown if given.optimizer.startswith("adam") else None
    stages = [
        Checkpoint(str(k), given.lr, lambda: module, moments)
        for k in range(given.checkpoints + getattr(method, "from_start", False))
    ]
    return Subject(Model(module, given.task, checkpoints=stages), given, getattr(method, "centres", 1))


def _unknown() -> AdamMoments:
    raise AssertionError("a plan reads no moments")


def steps_of(recipe: Recipe, rows: int) -> int:
    """Steps of a run."""
    return recipe.epochs * math.ceil(rows / recipe.batch_size)


def run_seconds(work: Work, recipe: Recipe, share: float = 1.0) -> float:
    """One run, or a share of its steps."""
    steps = share * steps_of(recipe, len(work.train))
    return step_seconds(work, recipe, 3.0) * steps


def step_seconds(work: Work, recipe: Recipe, passes: float) -> float:
    """One step: so many products a layer for a batch, and the update."""
    updated = work.moved(UPDATED.get(recipe.optimizer, UPDATED["adamw"]) * work.numbers)
    return work.floor(batch_of(work.data, recipe.batch_size), passes) + updated


def batch_of(data: Data, size: int) -> Data:
    """A batch of the training examples."""
    share = min(1.0, size / data.examples)
    return replace(data, examples=size, positions=share * data.positions, squares=share * data.squares, batches=1)


# -- methods that train again ------------------------------------------------------------------------------------------


def plan_retraining(given: Any, train: Any, method: Retraining) -> Plan:
    """Values by training again: as many runs as the method looks at subsets, at most.

    Raises MethodError for what is no recipe: what a fit of an estimator costs, only the estimator knows.
    """
    if not isinstance(given, Recipe):
        raise MethodError(
            f"The cost of '{method.name}' is that of a fit times the subsets, and what a fit of "
            f"{type(given).__name__} costs is not known. Give assay.Recipe(...), or time one fit."
        )
    member = players_of(method.by, train, method.seed).member
    players = len(train) if member is None else int(member.max()) + 1
    count = utilities(method, players)
    work = Work(subject(given, method).model, train)
    seconds = count * run_seconds(work, given) / max(1, method.processes)
    memory = 4 * work.numbers * 8 + work.activations()
    note = f"{count:,.0f} training runs, of {players:,} players; less where a stopping rule is met earlier."
    return work.planned(method.name, (Step("training runs, at most", seconds),), memory, 0, (note,))


@singledispatch
def utilities(method: Registered, players: int) -> float:
    """Subsets whose utility is looked at, at most. Raises MethodError where only time stops the method."""
    raise MethodError(f"The cost of '{method.name}' cannot be predicted. Time it on a few examples.")


@utilities.register
def _(method: LeaveOneOut, players: int) -> float:
    return method.repeats * (players + 1)


@utilities.register(AME)
@utilities.register(Datamodel)
def _(method: AME | Datamodel, players: int) -> float:
    return method.subsets or 10 * players


@utilities.register
def _(method: LeastCore, players: int) -> float:
    return 2**players if players <= method.exact else (method.subsets or 10 * players) + 2


@utilities.register
def _(method: OwenShapley, players: int) -> float:
    return 2 + 2 * (players + 1) * updates(method.stop, players, method.name)


@utilities.register
def _(method: Semivalue, players: int) -> float:
    if players <= method.exact:
        return 2**players
    count = updates(method.stop, players, method.name)
    if method.sampler == "msr":
        return 2 + count
    most = horizon(method.weights(players))
    units = sampler_of(method.sampler).draw(players, method.seed, 0)
    return 2 + count * sum(len(replace(unit, most=most) if isinstance(unit, Walk) else unit) for unit in units)


def updates(stop: str | Stop, players: int, name: str) -> float:
    """The most updates that a stopping rule allows."""

    def most(rule: Stop) -> float:
        match rule:
            case Updates(updates=number, each=each):
                return number * (players if each else 1)
            case AnyOf(rules=rules):
                return min(map(most, rules))
            case AllOf(rules=rules):
                return max(map(most, rules))
            case _:
                return math.inf

    found = most(parse_stop(stop))
    if math.isinf(found):
        raise MethodError(f"'{name}' stops when it is exact enough, at a time unknown before. Add | updates:N to stop.")
    return math.ceil(found)
