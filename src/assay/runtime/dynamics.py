"""Training dynamics: the runs that are recorded, and the looks at all examples along them."""

from functools import singledispatch
from typing import Any

from assay.errors import MethodError
from assay.methods import EL2N, PVI, GraNd, Registered, VoG
from assay.methods.dynamics.base import Observed, Repeated
from assay.models import Model
from assay.runtime.steps import Plan, Step
from assay.runtime.training import run_seconds
from assay.runtime.work import Work
from assay.training import Recipe, model_of

EVALUATION, GRADIENT = 1.0, 2.0
"""Products a layer of a forward pass, and of one with a backward pass to the inputs."""


def plan_dynamics(given: Any, train: Any, method: Repeated) -> Plan:
    """Of a recipe the runs and their looks; of a model a look at each checkpoint.

    Raises MethodError for anything else: reading a record costs nothing.
    """
    subject = model_of(given)
    if isinstance(subject, Recipe):
        work = Work(Model(subject.initial(), subject.task), train)
        runs, share = trainings(method, subject)
        taken = Step("training", runs * run_seconds(work, subject, share))
        count = method.runs * looks(method)
        memory = work.activations() + 4 * 8 * work.numbers
    elif isinstance(subject, Model) and not isinstance(method, PVI):
        work, taken, count = Work(subject, train), Step("fingerprints", 0.0), len(subject.stages())
        memory = work.activations()
    else:
        what = "a recipe" if isinstance(method, PVI) else "a recipe or a model"
        raise MethodError(
            f"The cost of '{method.name}' depends on {what}, and {type(subject).__name__} was given. Give one."
        )
    passes = GRADIENT if isinstance(method, GraNd | VoG) else EVALUATION
    look = work.encoded(work.data) + work.floor(work.data, passes)
    steps = [Step("fingerprints, rules checked", work.check(1)), taken, Step("looks at all examples", count * look)]
    return work.planned(method.name, steps, memory)


@singledispatch
def trainings(method: Registered, recipe: Recipe) -> tuple[float, float]:
    """How many runs, and what share of each."""
    return getattr(method, "runs", 1), 1.0


@trainings.register
def _(method: EL2N, recipe: Recipe) -> tuple[float, float]:
    return method.runs, min(1.0, method.at / (method.evaluations or recipe.epochs))


@trainings.register
def _(method: GraNd, recipe: Recipe) -> tuple[float, float]:
    return method.runs, min(1.0, method.at / recipe.epochs)


@trainings.register
def _(method: PVI, recipe: Recipe) -> tuple[float, float]:
    return 2 * method.runs * method.folds, 1 - 1 / method.folds


def looks(method: Repeated) -> int:
    """At all examples, a run."""
    match method:
        case VoG():
            return method.looks
        case GraNd() | PVI():
            return 1
        case Observed():
            return method.evaluations
        case _:
            return 0
