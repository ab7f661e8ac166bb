"""Embeddings: what the representation is, and what must not change it."""

import numpy as np
import pytest
import torch
from tests.support import TEXTS, batch_of, classifier, examples, text_model
from torch import nn

import assay
from assay.errors import AssayError
from assay.methods import Embedding
from assay.methods.lexical import embedding
from assay.models import Model
from assay.tasks import Classify

TRAIN = examples(*TEXTS, "the dog sat on the mat", "who saw the tree")
QUERIES = examples("the cat sat on the mat", "you and I ran under a tree and sat on the big red mat", "hello")


@pytest.fixture(scope="module")
def model() -> Model:
    return text_model("Llama", dtype=torch.float32)


def naive(model: Model, rows: assay.Examples) -> np.ndarray:
    """Mean over the tokens after the first of the last hidden state, each text alone."""
    means = []
    for k in range(len(rows)):
        tokens = batch_of(model, rows[k : k + 1]).tensors["input_ids"]
        with torch.no_grad():
            hidden = model.module(input_ids=tokens, output_hidden_states=True).hidden_states[-1][0]
        means.append(hidden[1:].double().mean(0).numpy())
    return np.stack(means)


@pytest.mark.parametrize("center", [True, False])
def test_the_formula(center: bool, model: Model) -> None:
    e, q = naive(model, TRAIN), naive(model, QUERIES)
    mean = e.mean(0) * center
    e, q = e - mean, q - mean
    right = (e / np.linalg.norm(e, axis=1, keepdims=True)) @ (q / np.linalg.norm(q, axis=1, keepdims=True)).T
    scores = assay.attribute(model, TRAIN, QUERIES, Embedding(center=center))
    np.testing.assert_allclose(scores.array, right, atol=2e-5)


def test_identical_texts_score_one(model: Model) -> None:
    array = assay.attribute(model, TRAIN, TRAIN, "embedding").array
    np.testing.assert_allclose(np.diag(array), 1, atol=1e-5)
    np.testing.assert_allclose(array, array.T, atol=1e-5)
    assert np.abs(array - np.eye(len(TRAIN))).max() < 1 - 1e-3


def test_the_mean_is_removed(model: Model) -> None:
    """Unit rows would not average to zero; what they are made of does, so that unlike texts score below zero."""
    with_mean, without = (assay.attribute(model, TRAIN, TRAIN, Embedding(center=c)).array for c in (False, True))
    other = ~np.eye(len(TRAIN), dtype=bool)
    assert without[other].mean() < 0 < with_mean[other].mean()


@pytest.mark.parametrize("most", [1, 2, 100])
def test_batches_and_padding_do_not_matter(most: int, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    right = assay.attribute(model, TRAIN, QUERIES, "embedding").array
    rows = [list(range(start, start + most)) for start in range(0, 100, most)]

    def pack(lengths: list[int], positions: int, limit: int) -> list[list[int]]:
        groups = [[k for k in group if k < len(lengths)] for group in rows]
        return [group for group in groups if group]

    monkeypatch.setattr(embedding, "pack", pack)
    monkeypatch.setattr(embedding, "_WINDOW", 3)
    np.testing.assert_allclose(assay.attribute(model, TRAIN, QUERIES, "embedding").array, right, atol=1e-5)


def test_of_a_completion_only_its_tokens_count(model: Model) -> None:
    """Two completions behind one prompt, and as texts: the prompt is context, not content."""
    rows = [{"prompt": "the cat ", "completion": c} for c in ("sat on the mat", "ran")]
    pairs = examples(*rows)
    batch = batch_of(model, pairs)
    with torch.no_grad():
        hidden = model.module(input_ids=batch.tensors["input_ids"], output_hidden_states=True).hidden_states[-1]
    expected = torch.stack([hidden[0, 3:7].mean(0), hidden[1, 3:4].mean(0)])
    found = model.task.features(model.module, batch)
    torch.testing.assert_close(found, expected)


def test_classifiers_have_representations_too() -> None:
    texts = [{"text": text, "label": k % 3} for k, text in enumerate(TEXTS)]
    scores = assay.attribute(classifier(), texts, texts, "embedding")
    np.testing.assert_allclose(np.diag(scores.array), 1, atol=1e-5)
    net = Model(nn.Linear(4, 3), Classify())
    x, y = torch.randn(6, 4), torch.randint(0, 3, (6,))
    np.testing.assert_allclose(np.diag(assay.attribute(net, (x, y), (x, y), "embedding").array), 1, atol=1e-5)


def test_an_encoder_that_cannot_be_had(tmp_path: object) -> None:
    with pytest.raises(AssayError, match=r"pip install 'assay\[embed\]'|cannot be loaded"):
        assay.attribute(None, TRAIN, QUERIES, Embedding(encoder=f"{tmp_path}/none"))
