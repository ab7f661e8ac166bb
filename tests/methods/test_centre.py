"""The centres: their weights, and gradient methods that are given a recipe."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import assay
from assay.errors import MethodError
from assay.examples import Examples
from assay.methods import DDA, LESS, METHODS
from assay.methods.centre import Averaged, Centre
from assay.methods.gradient.base import GradientMethod
from assay.methods.gradient.graddot import GradDot
from assay.tasks import Classify
from assay.training import Recipe

N = 30
OPTIONS: dict[str, dict[str, Any]] = {
    "trak": {"compression": "sjlt:8"}, "lissa": {"depth": 5}, "dda": {"measure": "loss"}, "infra": {"mlp": "*"},
}  # fmt: skip
TAKES_MODEL = [kind for kind in METHODS if issubclass(kind, GradientMethod)]


def world() -> tuple[Recipe, Examples, Examples]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(N + 3, 4, generator=generator), torch.randint(0, 3, (N + 3,), generator=generator)
    recipe = Recipe(
        lambda: nn.Linear(4, 3), Classify(), optimizer="sgd", lr=0.2, epochs=3, batch_size=10, checkpoints=2
    )
    return recipe, assay.read((x[:N], y[:N])), assay.read((x[N:], y[N:]))


def test_one_centre_is_the_mean_and_several_are_subsets() -> None:
    (mean,) = Centre(0.25, 1).weights(N, 0)
    assert mean.tolist() == [0.75] * N
    subsets = Centre(0.2, 200).weights(N, 0)
    assert {float(w.sum()) for w in subsets} == {24.0}
    assert set(torch.cat(subsets).tolist()) == {0.0, 1.0}
    share = torch.stack(subsets).mean(0)
    assert float((share - 0.8).abs().max()) < 4 * (0.8 * 0.2 / 200) ** 0.5
    again, other = Centre(0.2, 200).weights(N, 0), Centre(0.2, 200).weights(N, 1)
    assert torch.equal(torch.stack(subsets), torch.stack(again))
    assert not torch.equal(torch.stack(subsets), torch.stack(other))


def test_a_method_at_centres_is_the_mean_of_the_method_on_their_runs() -> None:
    recipe, train, queries = world()
    for method, centre in ((GradDot(removed=0.3), Centre(0.3)), (GradDot(removed=0.5, centres=3), Centre(0.5, 3))):
        runs = [recipe.train(train, weight) for weight in centre.weights(N, recipe.seed)]
        expected = np.mean([assay.attribute(run.model, train, queries, GradDot()).array for run in runs], axis=0)
        found = assay.attribute(recipe, train, queries, method)
        np.testing.assert_allclose(found.array, expected, rtol=1e-5, atol=1e-7)
        assert "Recipe(" in found.provenance.inputs["recipe"]
        assert found.provenance.parameters["removed"] == method.removed
        best = assay.attribute(recipe, train, queries, method, top=2)
        assert best.top(2).to_dict() == found.top(2).to_dict()
        values = assay.value(recipe, train, on=queries, method=method)
        np.testing.assert_allclose(values.array, expected.mean(1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", TAKES_MODEL, ids=lambda kind: kind.name)
def test_every_gradient_method_takes_a_recipe_and_a_run(kind: type[Any]) -> None:
    recipe, train, queries = world()
    method = kind(**OPTIONS.get(kind.name, {}))
    if kind is LESS:  # takes Adam's moments, which a run has and a model alone has not
        recipe = replace(recipe, optimizer="adamw", lr=0.01)
    run = recipe.train(train)
    of_recipe = assay.attribute(recipe, train, queries, method).array
    np.testing.assert_array_equal(of_recipe, assay.attribute(run, train, queries, method).array)
    if kind not in (LESS, DDA):  # of the run, DDA also takes the model that it started from
        np.testing.assert_array_equal(of_recipe, assay.attribute(run.model, train, queries, method).array)


def test_methods_without_a_centre_take_a_run_too() -> None:
    recipe, train, queries = world()
    run = recipe.train(train)
    for method in ("self-influence", "embedding"):
        verb: Any = assay.value if method == "self-influence" else assay.attribute
        given = (train,) if method == "self-influence" else (train, queries)
        one, other = (verb(model, *given, method=method).array for model in (run, run.model))
        np.testing.assert_array_equal(one, other)


def test_the_unit_holds_at_every_centre() -> None:
    """A method that divides by the curvature of all examples is scaled to that of the share that is left."""

    class Nats(GradDot):
        unit = "nats of query loss per removed example"

    recipe, train, queries = world()
    plain = assay.attribute(recipe, train, queries, GradDot(removed=0.5)).array
    np.testing.assert_allclose(assay.attribute(recipe, train, queries, Nats(removed=0.5)).array, 2 * plain, rtol=1e-6)


@pytest.mark.parametrize("wrong", [{"removed": 1.0}, {"removed": -0.5}, {"centres": 0}, {"centres": 4}])
def test_centres_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match=f"cannot take {next(iter(wrong))}="):
        GradDot(**wrong)


def test_a_counterfactual_without_a_recipe_is_refused() -> None:
    recipe, train, queries = world()
    run = recipe.train(train)
    with pytest.raises(MethodError, match=r"removed=0.5 .* takes an assay.Recipe, and Model was given"):
        assay.attribute(run.model, train, queries, GradDot(removed=0.5))


def test_notes_are_told_once() -> None:
    recipe, train, queries = world()
    fitted = GradDot(removed=0.5, centres=3).fit(recipe, train)
    assert isinstance(fitted, Averaged)
    assert len(fitted.score(queries).provenance.notes) == len(set(fitted.score(queries).provenance.notes))
