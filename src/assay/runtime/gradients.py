"""The gradient family: a pass over the training examples, exact or into an index, and the queries through `P`."""

from assay.compress import Factored, Identity, parse
from assay.errors import MethodError
from assay.examples import Examples
from assay.gradients.features import EXAMPLES, NUMBERS
from assay.index.format import DTYPES, Dtype
from assay.methods import EKFACCG, TRAK, DataInf, Diagonal, LinFiK, LiSSA, SelfInfluence
from assay.methods.gradient.base import GradientMethod
from assay.methods.gradient.influence import InfluenceMethod
from assay.methods.gradient.linfik import SAMPLE
from assay.models import Model
from assay.runtime import curvature, fitted, gauss_newton
from assay.runtime.steps import Plan, Step
from assay.runtime.training import Subject, run_seconds
from assay.runtime.work import DOUBLE, EFFICIENCY, Work
from assay.runtime.workload import data_of


def plan_scores(
    given: Subject, train: Examples, queries: Examples | None, method: GradientMethod, dtype: Dtype
) -> Plan:
    """Of an attribution, or without queries of an index."""
    model = method.staged(method.check_model(given.model))
    if queries is None and not method.compresses:
        raise MethodError(f"The method '{method.name}' has no index to build; give queries to plan an attribution.")
    work, stages = Work(model, train), len(method.stages(model))
    compression = method.train_compression()
    if queries is None and isinstance(compression, Identity):
        compression = Factored(method.seed)  # as `build` does
    live = isinstance(compression, Identity) and not method.stores
    asked = None if queries is None else data_of(model, queries)
    count = 0 if asked is None else asked.examples
    width = work.width(compression)
    disk = 0 if live else int(len(train) * stages * (width * DTYPES[dtype].itemsize + 64))
    steps = [Step("fingerprints, rules checked", stages * work.check(2 if queries is None or live else 3))]
    memory = 4 * count * width * (2.2 if live else 2 + stages)
    squares = method.rows() == "norm"
    formed = min(count, EXAMPLES, max(1, NUMBERS // max(1, width)))  # of the queries' gradients, at once
    memory += max(work.scanning(count, squares), 4 * 2.5 * formed * width) if live else work.working(compression)
    extra, held = _solving(work, method, count, stages)
    steps += extra
    memory += held
    for stage in model.stages():
        steps += fitted.prepared(work, compression, stage.moments)
    one = work.scanned(work.data, count, squares) if live else work.captured(work.data, compression)
    seconds = stages * one
    steps.append(Step("gradients of the training examples", seconds))
    if asked is not None:
        steps.append(Step("gradients of the queries", stages * work.captured(asked, compression)))
    if not live:
        steps.append(Step("writing and reading the index", 4 * disk / work.machine.bytes))
    if asked is not None and not live:
        extra, held = fitted.solved(work, method, compression, count)
        steps += extra
        memory += held
    temporary = ("The index is temporary, in TMPDIR.",) if disk and asked is not None else ()
    return _centred(work, given, steps, work.planned(method.name, steps, memory, disk, temporary))


def _solving(work: Work, method: GradientMethod, queries: int, stages: int) -> tuple[list[Step], float]:
    """Curvature of exact gradients, or the Gram matrix of compressed ones, and the bytes of either."""
    match method:
        case TRAK() if queries:
            width = work.width(method.compressor())
            gram = work.computed(2 * len(work.train) * width**2 + width**3 / 3, DOUBLE * EFFICIENCY)
            return [Step("Gram matrices", stages * gram)], 4 * 8 * width**2
        case EKFACCG() | LiSSA() | DataInf():
            held = gauss_newton.vectors(work, method, queries)
            held += curvature.held(work, method) if isinstance(method, EKFACCG) else 0.0
            return gauss_newton.solves(work, method, queries), held
        case LinFiK() if method.step == "normalised":
            return [curvature.fitted(work, Diagonal(), SAMPLE)], 2 * curvature.held(work, Diagonal())
        case InfluenceMethod():
            return [curvature.fitted(work, method, method.fitting_examples)], curvature.held(work, method)
        case _:
            return [], 0.0


def plan_values(given: Subject, train: Examples, method: SelfInfluence) -> Plan:
    """Of self-influence."""
    model: Model = given.model
    work, compression = Work(model, train), parse(method.compression, method.seed)
    stages = len(model.stages())
    steps = [Step("fingerprints, rules checked", stages * work.check(1))]
    for stage in model.stages():
        steps += fitted.prepared(work, compression, stage.moments)
    exact = isinstance(compression, Identity)
    one = work.scanned(work.data, 0, True) if exact else work.captured(work.data, compression)
    steps.append(Step("gradients of the training examples", stages * one))
    memory = work.scanning(0, True) if exact else work.working(compression, 1)
    return _centred(work, given, steps, work.planned(method.name, steps, memory))


def _centred(work: Work, given: Subject, steps: list[Step], plan: Plan) -> Plan:
    """With the training runs that come before, and all else once for each."""
    if given.recipe is None:
        return plan
    runs = given.runs
    every = [Step(step.name, runs * step.seconds) for step in steps]
    training = Step(f"training, {runs} times" if runs > 1 else "training", runs * run_seconds(work, given.recipe))
    states = 4 * work.numbers * (given.recipe.checkpoints * 3 + 6)
    whole = work.planned(plan.method, [training, *every], 0.0)
    return Plan(
        plan.method, whole.seconds, plan.peak_memory + states, plan.disk, plan.coverage, whole.steps, plan.notes
    )
