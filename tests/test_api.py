"""The public verbs: what they accept, what they give back, what they refuse and how."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import TEXTS, examples, saved, text_model
from torch import nn

import assay
from assay import api
from assay.errors import InputError, MethodError
from assay.methods import BM25, TRAK, GradCos, GradDot, SelfInfluence
from assay.models import Model
from assay.tasks import Classify

ROWS = [{"text": text} for text in TEXTS]
QUERIES = ["the cat ran", "hello you"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model() -> Model:
    return text_model("Llama", dtype=torch.float32, num_hidden_layers=1)


@pytest.fixture(scope="module")
def classifier() -> tuple[Model, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return Model(nn.Linear(4, 2), Classify()), torch.randn(12, 4), torch.randint(0, 2, (12,))


# -- attribute ---------------------------------------------------------------------------------------------------------


def test_anything_that_read_takes(model: Model, tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text("".join(f'{{"text": "{text}"}}\n' for text in TEXTS))
    from_file = assay.attribute(model, file, QUERIES)
    from_list = assay.attribute(model, ROWS, examples(*QUERIES), method="gradcos")
    np.testing.assert_array_equal(from_file.array, from_list.array)
    assert list(from_file.train_ids) == [f"train:{k + 1}" for k in range(len(TEXTS))]
    assert from_file.provenance.inputs == {"model": "LlamaForCausalLM", "train": "train.jsonl", "queries": "list"}


def test_a_method_by_name_or_with_its_parameters(model: Model) -> None:
    by_name, by_object = (assay.attribute(model, ROWS, QUERIES, m) for m in ("graddot", GradDot()))
    np.testing.assert_array_equal(by_name.array, by_object.array)
    summed = assay.attribute(model, ROWS, QUERIES, GradDot(query_loss="sum"))
    assert summed.provenance.parameters["query_loss"] == "sum"
    assert not np.allclose(summed.array, by_name.array)
    assert assay.attribute(None, ROWS, QUERIES, BM25(k1=0.0)).provenance.parameters["k1"] == 0.0


def test_queries_keep_their_losses(model: Model) -> None:
    scores = assay.attribute(model, ROWS, QUERIES)
    batch = model.task.collate([model.task.encode(query) for query in examples(*QUERIES)])
    with torch.no_grad():
        right = model.task.measure(model.module, batch, assay.tasks.Loss("mean"))
    np.testing.assert_allclose(scores.queries.columns["loss"], right.numpy(), rtol=1e-5)


def test_large_results_keep_the_best_at_both_ends(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "DENSE_PAIRS", 7)
    monkeypatch.setattr(api, "TOP", 2)
    kept = assay.attribute(model, ROWS, QUERIES)
    assert not kept.is_dense
    assert kept.entries.k == 2
    assert assay.attribute(model, ROWS, QUERIES, top=3).entries.k == 3
    assert assay.attribute(model, ROWS[:3], QUERIES).is_dense
    with pytest.raises(InputError, match="top=None"):
        _ = kept.array


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("gradcoss", "no method 'gradcoss'. Did you mean 'gradcos'"),
        ("self-influence", r"gives values, not scores for queries. Use assay.value"),
    ],
)
def test_methods_that_are_refused(method: str, told: str, model: Model) -> None:
    with pytest.raises(MethodError, match=told):
        assay.attribute(model, ROWS, QUERIES, method)


@pytest.mark.parametrize(
    ("method", "told"), [(GradCos, r"gradcos.GradCos'.*assay.methods.GradCos\(\)"), (7, "given as 7")]
)
def test_what_is_no_method_is_refused_in_words(method: Any, told: str) -> None:
    with pytest.raises(MethodError, match=told):
        inspect.unwrap(assay.methods.find)(method)  # past the type checker of these tests


def test_what_else_is_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="top is 0; at least 1"):
        assay.attribute(model, ROWS, QUERIES, top=0)
    with pytest.raises(MethodError, match=r"takes gradients of a model, and was given str. Give assay.load\(path\)"):
        assay.attribute("model/", ROWS, QUERIES)
    with pytest.raises(MethodError, match="'bm25' has no gradients to index"):
        assay.build(model, ROWS, tmp_path / "i", method="bm25")
    assert not (tmp_path / "i").exists()


# -- value -------------------------------------------------------------------------------------------------------------


def test_values_of_an_attribution_are_means_over_the_examples_to_be_good_at(
    classifier: tuple[Model, torch.Tensor, torch.Tensor],
) -> None:
    model, x, y = classifier
    scores = assay.attribute(model, (x, y), (x[:5], y[:5]), "graddot")
    values = assay.value(model, (x, y), on=(x[:5], y[:5]), method="graddot")
    np.testing.assert_allclose(values.array, scores.array.mean(1), rtol=1e-5)  # of the mean gradient, in float32
    assert list(values.ids) == list(scores.train_ids)
    assert values.method == "graddot"


def test_values_need_no_examples_for_self_influence(classifier: tuple[Model, torch.Tensor, torch.Tensor]) -> None:
    model, x, y = classifier
    values = assay.value(model, (x, y))
    assert values.method == "self-influence"
    assert (values.array <= 0).all()
    np.testing.assert_array_equal(assay.value(model, (x, y), method=SelfInfluence()).array, values.array)
    with pytest.raises(MethodError, match=r"'graddot' values examples for others: give on= \(--on\)"):
        assay.value(model, (x, y), method="graddot")
    with pytest.raises(MethodError, match="self-influence takes gradients of a model"):
        assay.value(None, (x, y))


# -- build, open -------------------------------------------------------------------------------------------------------


def test_an_index_remembers_the_method_it_was_built_for(classifier: tuple[Model, Any, Any], tmp_path: Path) -> None:
    """With its parameters, its own compression or the default one, and its seed."""
    model, x, y = classifier
    method = TRAK(compression="sjlt:6", seed=5, damping=0.5, newton=True)
    built = assay.build(model, (x, y), tmp_path / "i", method=method)
    right = assay.attribute(model, (x, y), (x[:3], y[:3]), method).array
    np.testing.assert_array_equal(built.score(assay.read((x[:3], y[:3]))).array, right)
    opened = assay.open(tmp_path / "i", model)
    found = opened.attribute((x[:3], y[:3]))
    np.testing.assert_array_equal(found.array, right)
    assert found.provenance.parameters == method.parameters()
    plain = opened.attribute((x[:3], y[:3]), TRAK(damping=0.5))
    assert not np.allclose(plain.array, right)
    assert not plain.provenance.parameters["newton"]


def test_an_index_of_mean_losses_answers_by_name(model: Model, tmp_path: Path) -> None:
    assay.build(model, ROWS, tmp_path / "i", method=GradCos(train_loss="mean"), compression="factored:64")
    opened = assay.open(tmp_path / "i", model)
    for method in (None, "gradcos", "graddot"):
        name = method or "gradcos"
        right = assay.attribute(model, ROWS, QUERIES, assay.methods.find(name, train_loss="mean"))
        np.testing.assert_allclose(opened.attribute(QUERIES, method).array, right.array, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "stored"), [(None, "factored:16"), ("factored:3", "factored:3"), ("sjlt:9", "sjlt:9")]
)
def test_the_compression_of_an_index(given: str | None, stored: str, model: Model, tmp_path: Path) -> None:
    built = assay.build(model, ROWS, tmp_path / "i", compression=given)
    assert built.index.header["compression"] == stored
    assert assay.build(model, ROWS, tmp_path / "i", compression=given).index.rows == len(ROWS)  # at once: it is there


def test_large_answers_of_an_index_keep_the_best(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assay.build(model, ROWS, tmp_path / "i")
    opened = assay.open(tmp_path / "i", model)
    dense = opened.attribute(QUERIES)
    monkeypatch.setattr(api, "DENSE_PAIRS", 1)
    monkeypatch.setattr(api, "TOP", 2)
    some = opened.attribute(QUERIES)
    assert some.top(2).to_dict() == dense.top(2).to_dict()
    with pytest.raises(InputError, match="top is -1"):
        opened.attribute(QUERIES, top=-1)


def test_a_model_from_a_directory(tmp_path: Path) -> None:
    folder = saved("Llama", tmp_path / "model", num_hidden_layers=1)
    scores = assay.attribute(assay.load(folder), ROWS, QUERIES)
    assert scores.provenance.inputs["model"] == "model"
    assert scores.coverage == 1.0
    part = assay.attribute(assay.load(folder, modules="*.mlp.*"), ROWS, QUERIES)
    assert 0.0 < part.coverage < 1.0
