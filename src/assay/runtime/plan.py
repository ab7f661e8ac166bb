"""What attributing, valuing or indexing will cost, before it runs: seconds, peak memory, disk, coverage.

Each family counts the operations and bytes that its methods define, out of the parts in `work.py`; a recipe's training
runs are counted too. The model is not run. Loading the model and reading the files are not counted.
"""

from typing import Any

from assay.errors import MethodError
from assay.examples import Examples, read
from assay.index.format import Dtype
from assay.inference import Server
from assay.methods import BM25, ICP, TFIDF, Embedding, Random, Registered, Replay, SelfInfluence, find
from assay.methods.dynamics.base import Repeated
from assay.methods.gradient.base import GradientMethod
from assay.methods.gradient.unrolled import Unrolled
from assay.methods.retrain.base import Retraining
from assay.models import Model
from assay.runtime.dynamics import plan_dynamics
from assay.runtime.gradients import plan_scores, plan_values
from assay.runtime.prompting import plan_probing
from assay.runtime.replay import plan_replay
from assay.runtime.steps import Plan
from assay.runtime.training import Subject, plan_retraining, subject
from assay.runtime.unrolling import plan_unrolled
from assay.runtime.words import plan_embedding, plan_words
from assay.training import Recipe, model_of


def plan(
    model: Any, train: Any, queries: Any = None, method: str | Registered = "gradcos", *, dtype: Dtype = "float32"
) -> Plan:
    """Predict the cost of `attribute`, or, without queries, of `build` (of `value` for a value method).

    `model` is what the method takes: a model, a run, or an `assay.Recipe`, whose training is then counted. `dtype` is
    that of the index. Raises MethodError for a method whose cost is not known, DataError for data that do not fit the
    model.
    """
    chosen = find(method)
    train, queries = read(train), None if queries is None else read(queries)
    match chosen:
        case GradientMethod():
            return plan_scores(_subject(model, chosen), train, queries, chosen, dtype)
        case SelfInfluence():
            return plan_values(_subject(model, chosen), train, chosen)
        case Unrolled():
            return plan_unrolled(_to_train(model, chosen), train, _needed(queries, chosen), chosen)
        case Replay():
            return plan_replay(_to_train(model, chosen), train, _needed(queries, chosen), chosen)
        case Repeated():
            return plan_dynamics(model, train, chosen)
        case Retraining():
            return plan_retraining(model, train, chosen)
        case Embedding() if chosen.encoder == "model":
            return plan_embedding(_subject(model, chosen).model, train, _needed(queries, chosen), chosen)
        case ICP():
            asked = model if isinstance(model, Server) else _subject(model, chosen).model
            return plan_probing(asked, train, _needed(queries, chosen), chosen)
        case BM25() | TFIDF() | Random():
            return plan_words(train, _needed(queries, chosen), chosen)
        case _:
            raise MethodError(
                f"The cost of '{chosen.name}' with these parameters cannot be predicted. Time it on a few examples."
            )


def _subject(given: Any, method: Registered) -> Subject:
    found = model_of(given)
    if not isinstance(found, Model | Recipe):
        raise MethodError(
            f"The cost of '{method.name}' depends on a model, and {type(given).__name__} was given. Give one."
        )
    return subject(found, method)


def _to_train(given: Any, method: Registered) -> Subject:
    if not isinstance(given, Recipe):
        raise MethodError(
            f"The cost of '{method.name}' depends on a recipe, and {type(given).__name__} was given. Give assay.Recipe(...)."
        )
    return subject(given, method)


def _needed(queries: Examples | None, method: Registered) -> Examples:
    if queries is None:
        raise MethodError(f"The method '{method.name}' has no index to build; give queries to plan an attribution.")
    return queries
