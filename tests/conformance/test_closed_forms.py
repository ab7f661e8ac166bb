"""What every closed form promises: neighbours, transport, bags, linear models, speech; each with the model and data it takes."""

import copy
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.tree import DecisionTreeClassifier
from tests.speech_toy import SYMBOLS, Linear, Recordings, spoken

import assay
from assay.errors import AssayError
from assay.examples import Examples
from assay.methods import METHODS, Method, Registered
from assay.models import Model
from assay.results import Result
from assay.tasks import CTC, Classify

KINDS = [kind for kind in METHODS if kind.family in ("neighbors", "closed", "speech")]
rng = np.random.default_rng(0)
X, XV = rng.normal(size=(24, 3)), rng.normal(size=(9, 3))
X[4] = X[0]
Y, YV = (x[:, 0] + 0.3 * x[:, 1] > 0 for x in (X, XV))
ROWS, GOAL = assay.read((X, Y.astype(int))), assay.read((XV, YV.astype(int)))
NUMBERS, NUMBERS_V = assay.read((X, X @ [1.0, 2.0, 3.0])), assay.read((XV, XV @ [1.0, 2.0, 3.0]))
OPTIONS: dict[str, dict[str, Any]] = {"data-oob": {"bags": 30}}
IN_ORDER = ("knn-shapley", "lava", "linear-influence", "frames")
every = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


@cache
def said() -> tuple[Examples, Examples]:
    pairs = spoken(12, 0)
    pairs[4] = pairs[0]
    return assay.read(Recordings(pairs)), assay.read(Recordings(spoken(4, 1)))


def setting(kind: type[Registered]) -> tuple[Any, Examples, Examples | None]:
    """A model, training data, and what they are valued for."""
    if kind.family == "speech":
        torch.manual_seed(0)
        return Model(Linear(), CTC(SYMBOLS)), *said()
    if kind.name == "linear-influence":
        return Ridge(), NUMBERS, NUMBERS_V
    if kind.name == "data-oob":
        return DecisionTreeClassifier(), ROWS, None
    return None, ROWS, GOAL


def made(kind: type[Any]) -> Any:
    return kind(**OPTIONS.get(kind.name, {}))


def result(kind: type[Registered], order: Any = None) -> Result:
    model, train, on = setting(kind)
    train = train if order is None else train.select(order)
    if issubclass(kind, Method):
        assert on is not None
        return assay.attribute(model, train, on, made(kind))
    return assay.value(model, train, on, made(kind))


@cache
def usual(kind: type[Registered]) -> Any:
    return result(kind)


@every
def test_form_provenance_and_disk(kind: type[Registered], tmp_path: Path) -> None:
    found = usual(kind)
    _, train, on = setting(kind)
    assert found.array.shape == ((len(train), len(on)) if issubclass(kind, Method) else (len(train),))  # type: ignore[arg-type]
    assert np.isfinite(found.array).all()
    assert np.abs(found.array).max() > 0
    about = found.provenance
    assert (about.method, about.unit, about.sign) == (kind.name, kind.unit, "higher = more helpful")
    assert about.parameters == made(kind).parameters()
    assert about.train_fingerprint == train.fingerprint()
    assert about.query_fingerprint == (None if on is None else on.fingerprint())
    assert about.seconds > 0
    assert about.notes
    found.save(tmp_path / "run")
    loaded = type(found).load(tmp_path / "run")
    np.testing.assert_array_equal(loaded.array, found.array)
    assert loaded.provenance == about


@every
def test_the_same_input_gives_the_same_bits(kind: type[Registered]) -> None:
    np.testing.assert_array_equal(result(kind).array, usual(kind).array)  # type: ignore[attr-defined]


@every
def test_order_and_twins(kind: type[Registered]) -> None:
    """Order moves rows; equal rows are worth the same and stay two (bags are of positions)."""
    found = usual(kind).array
    if kind.name not in IN_ORDER:
        pytest.skip("drawn by position")
    order = np.random.default_rng(1).permutation(len(found))
    scale = np.abs(found).max()
    moved: Any = result(kind, order)
    np.testing.assert_allclose(moved.array, found[order], atol=1e-5 * scale)
    np.testing.assert_allclose(found[0], found[4], atol=1e-5 * scale)


@every
def test_what_is_given_stays_as_it_was(kind: type[Registered]) -> None:
    method, (model, train, on) = made(kind), setting(kind)
    before = copy.deepcopy(vars(method))
    assert set(before) == {entry.name for entry in fields(kind)}  # type: ignore[arg-type]
    inner = model.module if isinstance(model, Model) else model
    if isinstance(model, Model):
        inner.train()
    state, weights = (
        copy.deepcopy(vars(inner)) if inner is not None else {},
        copy.deepcopy(getattr(inner, "state_dict", dict)()),
    )
    assay.value(model, train, on, method)
    assert vars(method) == before
    assert set(state) == set(vars(inner) if inner is not None else {})
    if isinstance(model, Model):
        assert all(torch.equal(tensor, weights[name]) for name, tensor in inner.state_dict().items())
        assert inner.training
        assert not any(layer._forward_pre_hooks for layer in inner.modules())
    elif inner is not None:
        assert vars(inner) == state
    for name in before:
        with pytest.raises(FrozenInstanceError):
            setattr(method, name, before[name])


REFUSED: list[Callable[[Any, Examples, Any], tuple[Any, Any, Any]]] = [
    lambda model, train, on: (3, train, on),
    lambda model, train, on: (model, assay.read([{"text": "a"}, {"text": "b"}]), on),
    lambda model, train, on: (model, assay.read(X), on),
]


@every
@pytest.mark.parametrize("wrong", REFUSED, ids=["model", "text", "no targets"])
def test_what_does_not_fit_is_refused_in_words(kind: type[Registered], wrong: Any) -> None:
    with pytest.raises(AssayError) as caught:
        assay.value(*wrong(*setting(kind)), made(kind))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.family == "neighbors"], ids=lambda kind: kind.name)
def test_neighbours_in_a_models_representations(kind: type[Registered]) -> None:
    torch.manual_seed(0)
    model = Model(torch.nn.Linear(3, 2).double(), Classify())
    values = assay.value(model, ROWS, GOAL, made(kind))
    logits = [model.module(torch.tensor(x)).detach().float().numpy() for x in (X, XV)]
    plain = assay.value(
        None, (logits[0], Y.astype(int)), (logits[1], YV.astype(int)), kind(metric="cosine", scale=False)
    )
    np.testing.assert_allclose(values.array, plain.array, atol=1e-6)
    assert values.provenance.model_fingerprint == model.fingerprint()
