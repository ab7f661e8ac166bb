"""Queries against an index: by its own method and others, with the notes that belong to them."""

import gc
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import TEXTS, examples, language_model, text_model, tokenizer
from torch import nn

import assay
from assay.errors import InputError, MethodError
from assay.methods import TRAK, GradCos, GradDot, TracIn
from assay.methods.gradient import live
from assay.methods.gradient.base import GradientMethod
from assay.models import Checkpoint, Model
from assay.tasks import CausalLM, Regress

TRAIN = examples(*TEXTS)
QUERIES = examples("the cat ran", "you saw a dog")


def model_of(count: int) -> Model:
    """A tiny Llama with checkpoints, of which the last is the model as it is."""
    plain = text_model("Llama", num_hidden_layers=1)
    states = [
        {name: (1 - 0.2 * k) * t for name, t in plain.module.state_dict().items()} for k in reversed(range(count))
    ]
    stages = [Checkpoint.of_state(f"step {k}", 0.1 + k, plain.module, state) for k, state in enumerate(states)]
    return Model(plain.module, plain.task, checkpoints=stages)


@pytest.mark.parametrize("method", [GradDot(), GradDot(query_loss="sum"), GradCos(), TracIn()])
def test_any_method_of_the_same_gradients(method: GradientMethod, tmp_path: Path) -> None:
    """An index of a run's checkpoints answers all; methods of one checkpoint take its last."""
    model = model_of(2)
    assay.build(model, TRAIN, tmp_path / "index", method="tracin", compression="factored:64")
    scores = assay.open(tmp_path / "index", model).attribute(QUERIES, method)
    right = assay.attribute(model, TRAIN, QUERIES, method)
    np.testing.assert_allclose(scores.array, right.array, rtol=1e-5, atol=1e-6 * np.abs(right.array).max())
    assert scores.method == method.name
    assert scores.provenance.parameters["query_loss"] == method.query_loss
    assert scores.provenance.parameters["compression"] == "factored:64"


def test_other_gradients_are_refused(tmp_path: Path) -> None:
    model = model_of(1)
    built = assay.build(model, TRAIN, tmp_path / "index", method="gradcos")
    opened = assay.open(tmp_path / "index", model)
    with pytest.raises(
        InputError, match=r"gradients of loss \(sum over tokens\); the method 'trak' needs margin \(sum\)"
    ):
        opened.attribute(QUERIES, "trak")
    with pytest.raises(InputError, match=r"needs loss \(mean\)"):
        opened.attribute(QUERIES, GradDot(train_loss="mean"))
    with pytest.raises(MethodError, match="tracin sums over the checkpoints"):
        opened.attribute(QUERIES, "tracin")
    assert opened.index.checkpoints == built.index.checkpoints == 1


def test_tracin_needs_checkpoints() -> None:
    with pytest.raises(MethodError, match=r"the model has none\. Give them with their learning rates"):
        assay.attribute(text_model("Llama"), TRAIN, QUERIES, "tracin")


def test_examples_that_are_cut_are_counted(tmp_path: Path) -> None:
    """Those of training once, however many checkpoints there are, and the queries."""
    module = language_model("Llama", num_hidden_layers=1)
    plain = Model(module, CausalLM(tokenizer(), 6))
    stages = [Checkpoint(f"{k}", 1.0, lambda: module) for k in range(2)]
    model = Model(module, plain.task, checkpoints=stages)
    queries = examples("the cat", "the big red dog ran under the tree")
    note = "3 examples were longer than the context and were cut."  # two of training, one query
    built = assay.build(model, TRAIN, tmp_path / "index", method="tracin")
    assert built.score(queries).provenance.notes == (note,)
    assert assay.attribute(model, TRAIN, queries, "tracin").provenance.notes == (note,)
    assert assay.attribute(plain, TRAIN, queries, "embedding").provenance.notes == (note,)
    assert assay.value(model, TRAIN).provenance.notes == (note.replace("3", "2"),)


@pytest.mark.parametrize("method", ["tracin", "tracin index", "trak", "self-influence"])
def test_examples_left_out_at_an_early_checkpoint_are_told(method: str, tmp_path: Path) -> None:
    """Only the first checkpoint is infinite for row 7, the last is not."""
    x, y = torch.randn(20, 3), torch.randn(20)
    x[:, 2] = 0
    x[6, 2] = 100.0
    module = nn.Linear(3, 1)
    states = [{**module.state_dict(), "weight": torch.tensor([[1.0, 2.0, w]])} for w in (1e38, 1.0)]
    stages = [Checkpoint.of_state(f"{k}", 1.0, module, state) for k, state in enumerate(states)]
    model = Model(module, Regress(), checkpoints=stages)
    train, queries = assay.read((x, y)), assay.read((x[:3], y[:3]))
    found: Any
    match method:
        case "tracin index":
            found = assay.build(model, train, tmp_path / "i", method=TracIn(on_nonfinite="skip")).score(queries)
        case "tracin":
            found = assay.attribute(model, train, queries, TracIn(on_nonfinite="skip"))
        case "trak":
            found = assay.attribute(model, train, queries, TRAK(compression="sjlt:2", on_nonfinite="skip"))
        case _:
            found = assay.value(model, train, method=assay.methods.SelfInfluence(on_nonfinite="skip"))
    (note,) = found.provenance.notes
    assert note.endswith(f"score 0: {train.ids[6]}.")


def test_the_temporary_index_goes_with_the_fitted_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And also when fitting fails."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fitted = GradCos(compression="factored:4").fit(model_of(0), TRAIN)
    assert len(list(tmp_path.iterdir())) == 1
    del fitted
    gc.collect()
    assert not list(tmp_path.iterdir())
    with pytest.raises(MethodError, match="singular"):
        TRAK(damping=0.0, compression="sjlt:64").fit(model_of(0), TRAIN)
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_queries_too_many_for_exact_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_NUMBERS", 1000)
    with pytest.raises(MethodError, match=r"Exact gradients of 2 queries .*compression='factored:16'"):
        assay.attribute(model_of(0), TRAIN, QUERIES, "gradcos")  # whose lengths are over all layers at once
    assay.attribute(model_of(0), TRAIN, QUERIES, GradCos(compression="factored:4"))


@pytest.mark.parametrize("compression", ["factord:4", "factored:x", "factored:0", "none:3", 16])
def test_a_compression_that_cannot_be_read(compression: Any) -> None:
    method = GradDot()
    object.__setattr__(method, "compression", compression)  # past the type checker of these tests
    with pytest.raises(MethodError, match=r"compression|rank"):
        method.__post_init__()
