"""What every method that trains again promises: arrays, an estimator, and few enough rows to enumerate all subsets."""

import copy
from dataclasses import FrozenInstanceError, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import assay
from assay.errors import AssayError, DataError, MethodError
from assay.examples import Examples
from assay.methods import METHODS, Registered
from assay.models import Model
from assay.values import Values

KINDS = [kind for kind in METHODS if kind.family == "retrain"]
EXACT = ("shapley", "beta-shapley", "banzhaf", "loo", "least-core")
rng = np.random.default_rng(0)
X, XV = rng.normal(size=(6, 2)), rng.normal(size=(40, 2))
X[4] = X[0]
Y, YV = (X[:, 0] + 0.3 * X[:, 1] > 0).astype(int), (XV[:, 0] + 0.3 * XV[:, 1] > 0).astype(int)
TRAIN, VALID, TWINS = assay.read((X, Y)), assay.read((XV, YV)), (0, 4)
OPTIONS: dict[str, dict[str, Any]] = {
    "owen": {"stop": "updates:8", "nodes": 2}, "classwise-shapley": {"stop": "updates:5"}, "datamodel": {"subsets": 40},
    "ame": {"subsets": 40, "penalty": 0.0},
}  # fmt: skip
every = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def made(kind: type[Registered]) -> Any:
    return kind(scoring="auto" if kind.name == "classwise-shapley" else "neg_log_loss", **OPTIONS.get(kind.name, {}))


def result(kind: type[Registered], model: Any = None, train: Examples = TRAIN) -> Values:
    return assay.value(LogisticRegression() if model is None else model, train, VALID, made(kind))


@cache
def usual(kind: type[Registered]) -> Values:
    return result(kind)


@every
def test_form_and_provenance(kind: type[Registered], tmp_path: Path) -> None:
    values = usual(kind)
    assert values.array.shape == (len(TRAIN),)
    assert np.isfinite(values.array).all()
    assert np.abs(values.array).max() > 0
    assert list(values.ids) == list(TRAIN.ids)
    about = values.provenance
    assert (about.method, about.unit, about.sign) == (kind.name, kind.unit, "higher = more helpful")
    assert about.parameters == made(kind).parameters()
    assert about.inputs == {"estimator": "LogisticRegression", "train": TRAIN.origin, "on": VALID.origin}
    assert (about.train_fingerprint, about.query_fingerprint) == (TRAIN.fingerprint(), VALID.fingerprint())
    assert about.seconds > 0
    assert any("utilities" in note for note in about.notes)
    values.save(tmp_path / "run")
    loaded = Values.load(tmp_path / "run")
    assert loaded.provenance == about
    assert loaded.to_frame().equals(values.to_frame())


@every
def test_the_same_input_gives_the_same_bits(kind: type[Registered]) -> None:
    np.testing.assert_array_equal(result(kind).array, usual(kind).array)


@every
def test_order_and_twins(kind: type[Registered]) -> None:
    """Exact methods: order moves the values, equal rows are worth the same and stay two."""
    if kind.name not in EXACT:
        pytest.skip("sampled, with permutations of positions")
    order = np.random.default_rng(1).permutation(len(TRAIN))
    np.testing.assert_allclose(result(kind, train=TRAIN.select(order)).array, usual(kind).array[order], atol=1e-6)
    one, other = usual(kind).array[list(TWINS)]
    assert one == pytest.approx(other, abs=1e-6)


@every
def test_what_is_given_stays_as_it_was(kind: type[Registered]) -> None:
    method, model = made(kind), LogisticRegression(C=2.0)
    before, fitted = copy.deepcopy(vars(method)), copy.deepcopy(vars(model))
    assert set(before) == {entry.name for entry in fields(kind)}  # type: ignore[arg-type]
    method.value(model, TRAIN, VALID)
    assert vars(method) == before
    assert vars(model) == fitted
    for name in before:
        with pytest.raises(FrozenInstanceError):
            setattr(method, name, before[name])


@every
@pytest.mark.parametrize(
    ("model", "message"), [(None, "given None"), (3, "Cannot train a int"), (LogisticRegression, "is a class")]
)
def test_what_cannot_be_trained_is_refused_in_words(kind: type[Registered], model: Any, message: str) -> None:
    with pytest.raises(MethodError, match=message):
        made(kind).value(model, TRAIN, VALID)


@every
def test_data_that_do_not_fit_are_refused_in_words(kind: type[Registered]) -> None:
    text = assay.read([{"text": "a"}, {"text": "b"}])
    for train, on in ((text, VALID), (TRAIN, None), (assay.read(X), VALID), (TRAIN[:1], VALID)):
        with pytest.raises(AssayError) as caught:
            made(kind).value(LogisticRegression(), train, on)
        assert caught.value.exit_code == 2


@every
def test_a_trained_model_is_refused(kind: type[Registered]) -> None:
    import torch

    model = Model(torch.nn.Linear(2, 2), assay.tasks.Classify())
    with pytest.raises((MethodError, DataError), match=r"trains again|train"):
        made(kind).value(model, TRAIN, VALID)
