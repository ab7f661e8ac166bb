"""Unrolling by segments: the run, for each segment its curvature along the queries' way back, and its scans."""

from assay.compress import Identity
from assay.examples import Examples
from assay.methods import EKFAC, PathKrylov
from assay.methods.gradient.path_krylov import GROUP
from assay.methods.gradient.unrolled import Unrolled
from assay.runtime import curvature, replay
from assay.runtime.gauss_newton import products
from assay.runtime.steps import Plan, Step
from assay.runtime.training import Subject, run_seconds
from assay.runtime.work import Work
from assay.runtime.workload import data_of


def plan_unrolled(given: Subject, train: Examples, queries: Examples, method: Unrolled) -> Plan:
    """Of an attribution by a recipe."""
    recipe = given.recipe
    assert recipe is not None
    work, asked = Work(given.model, train), data_of(given.model, queries)
    count, scans = asked.examples, method.segments * len(range(method.per_segment)[method.inside])
    steps = [
        Step("training", run_seconds(work, recipe)),
        Step("gradients of the training examples", scans * work.scanned(work.data, count)),
        Step("gradients of the queries", work.captured(asked, Identity())),
    ]
    checked = Step("fingerprints, rules checked", work.check(1 + scans))
    states = 4 * work.numbers * method.segments * method.per_segment * 3
    memory = states + 4 * count * work.numbers * 2.2 + work.scanning(count)
    if isinstance(method, PathKrylov):
        share = method.share_replayed(recipe)
        steps.append(Step("end of the run, replayed", replay.adjoint_seconds(work, recipe, count, share)))
        lanczos = method.segments * products(work, method.krylov, method.fitting_examples, count)
        steps.append(Step("products", lanczos))
        memory += min(4 * work.numbers * count * method.krylov, 4 * GROUP)
        if share:
            memory += replay.adjoint_bytes(work, recipe, count, float("inf"))
    else:
        inner = EKFAC(fitting_examples=method.fitting_examples)
        steps.append(Step("curvature", scans * curvature.fitted(work, inner, method.fitting_examples).seconds))
        memory += curvature.held(work, inner)
    return work.planned(method.name, [checked, *steps], memory)
