"""What every method from training dynamics promises when it is given a recipe; of models with checkpoints see test_methods.py."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import assay
from assay.errors import AssayError, MethodError
from assay.methods import METHODS, PVI, Registered
from assay.models import Model
from assay.tasks import Classify, Custom
from assay.training import Recipe
from assay.values import Values

KINDS = [kind for kind in METHODS if kind.family == "dynamics"]
every = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
ROWS = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
ROWS[4] = ROWS[0]
LABELS = (ROWS[:, 0] + 0.3 * ROWS[:, 1] > 0).long()
TRAIN, TWINS = assay.read((ROWS, LABELS)), (0, 4)
MODULE = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2))


def recipe(make_model: Any = MODULE) -> Recipe:
    """On all examples at once, so that their order is moot."""
    return Recipe(make_model, Classify(), optimizer="sgd", lr=0.2, epochs=4, batch_size=100)


def made(kind: type[Any]) -> Any:
    return kind(runs=2, **({"folds": 2} if kind is PVI else {}))


@cache
def usual(kind: type[Registered]) -> Values:
    return assay.value(recipe(), TRAIN, method=made(kind))


@every
def test_form_provenance_and_disk(kind: type[Registered], tmp_path: Path) -> None:
    values = usual(kind)
    assert values.array.shape == (24,)
    assert np.isfinite(values.array).all()
    assert np.isfinite(values.stderr).all()
    assert list(values.ids) == list(TRAIN.ids)
    about = values.provenance
    assert (about.method, about.unit, about.sign) == (kind.name, kind.unit, "higher = more helpful")
    assert about.parameters == made(kind).parameters()
    assert about.inputs == {"model": "Sequential", "train": TRAIN.origin}
    assert about.model_fingerprint == Model(MODULE, Classify()).fingerprint()
    assert about.train_fingerprint == TRAIN.fingerprint()
    assert about.seconds > 0
    assert "2 runs" in about.notes[0]
    values.save(tmp_path / "run")
    loaded = Values.load(tmp_path / "run")
    assert loaded.provenance == about
    assert loaded.to_frame().equals(values.to_frame())


@every
def test_same_bits_and_twins(kind: type[Registered]) -> None:
    np.testing.assert_array_equal(assay.value(recipe(), TRAIN, method=made(kind)).array, usual(kind).array)
    if kind is not PVI:  # folds are drawn by position
        one, other = usual(kind).array[list(TWINS)]
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
        order = np.random.default_rng(0).permutation(24)
        moved = assay.value(recipe(), TRAIN.select(order), method=made(kind)).array
        np.testing.assert_allclose(moved, usual(kind).array[order], atol=2e-4 * max(1, np.abs(moved).max()))


@every
def test_the_module_is_borrowed(kind: type[Registered]) -> None:
    module = copy.deepcopy(MODULE)
    module[0].eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assay.value(recipe(module), TRAIN, method=made(kind))
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert [m.training for m in module.modules()] == [True, False, True, True]
    assert not any(m._forward_hooks for m in module.modules())
    assert all(p.grad is None for p in module.parameters())


@every
@pytest.mark.parametrize("given", [None, 3, [], nn.Linear(2, 2)])
def test_what_is_no_run_is_refused_in_words(kind: type[Registered], given: Any) -> None:
    with pytest.raises(MethodError, match=rf"{kind.name} .*was given {type(given).__name__}"):
        assay.value(given, TRAIN, method=made(kind))


@every
def test_data_and_tasks_that_do_not_fit_are_refused_in_words(kind: type[Registered]) -> None:
    other = Recipe(MODULE, Custom(lambda module, x, y: module(x).square().sum(1)), epochs=2)
    for how, train in ((recipe(), assay.read([{"text": "a"}])), (recipe(), assay.read(ROWS)), (other, TRAIN)):
        if how is other and kind.name == "grand":
            continue  # any loss has gradients
        with pytest.raises(AssayError) as caught:
            assay.value(how, train, method=made(kind))
        assert caught.value.exit_code == 2


RANGES: list[tuple[str, dict[str, Any]]] = [
    ("vog", {"looks": 1}), ("el2n", {"at": 0}), ("grand", {"at": 0}), ("pvi", {"folds": 1}), ("aum", {"threshold": 101.0}),
    ("aum", {"first": -1}), ("forgetting", {"runs": 0}), ("loss-variability", {"evaluations": -1}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), RANGES)
def test_numbers_out_of_range_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match=f"{name} cannot take {next(iter(options))}"):
        assay.methods.find(name, **options)


def test_more_epochs_than_there_are() -> None:
    with pytest.raises(MethodError, match="after epoch 9, and the recipe trains 4"):
        assay.value(recipe(), TRAIN, method=assay.methods.GraNd(at=9))
    with pytest.raises(MethodError, match="needs 9 observations of every example, and row:1 has 4"):
        assay.value(recipe(), TRAIN, method=assay.methods.EL2N(at=9))
    with pytest.raises(MethodError, match="cuts 24 examples into 20 folds"):
        assay.value(recipe(), TRAIN, method=PVI(folds=20))
