"""Cosines: an example is nearest to itself, whatever the compression; gradients that vanish have no direction."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support import examples, text_model
from torch import nn

import assay
from assay.index.format import Dtype
from assay.methods import GradCos, GradDot
from assay.models import Model
from assay.tasks import Classify

SENTENCES = [
    f"{who} {did} {where} {what}" for who in ("the cat", "a big red dog", "I", "you and I") for did in ("sat on", "saw")
    for where in ("the mat", "the tree") for what in (".", "and ran", "under a tree .")
]  # fmt: skip
TRAIN = examples(*SENTENCES)
COPIED = list(range(1, 40, 4))
COPIES = examples(*(SENTENCES[row] for row in COPIED))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("compression", ["factored:8", "sjlt:512"])
def test_ten_copies_find_themselves_first_in_an_index(compression: str, dtype: Dtype, tmp_path: Path) -> None:
    model = text_model("Llama", dtype=torch.float32, tie_word_embeddings=True)
    built = assay.build(model, TRAIN, tmp_path / "index", compression=compression, dtype=dtype)
    scores = built.score(COPIES, top=5)
    np.testing.assert_array_equal(scores.entries.helpful_rows[:, 0], COPIED)
    assert scores.entries.helpful_scores[:, 0] == pytest.approx(np.ones(10), abs=1e-2)
    assert (scores.entries.helpful_scores[:, 1] < 0.999).all()


def test_ten_copies_find_themselves_first_exactly() -> None:
    """Of a training example's loss the sum is taken and of a query's the mean: a cosine does not see it."""
    model = text_model("Llama", dtype=torch.float32, tie_word_embeddings=True)
    array = assay.attribute(model, TRAIN, COPIES, "gradcos").array
    np.testing.assert_array_equal(array.argmax(0), COPIED)
    np.testing.assert_allclose(array.max(0), 1, atol=1e-5)
    assert np.abs(array).max() < 1 + 1e-5


@pytest.mark.parametrize("compression", ["none", "factored:8"])
def test_gradients_that_vanish_have_no_direction(compression: str) -> None:
    """A classifier so sure that squares of its gradients leave the range of float32: 0, not a number without meaning."""
    module = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, 0.5, -1.0], [-1.0, 0.0, 0.5]]))
    x = torch.randn(8, 3)
    x[2] = torch.tensor([35.0, 10.0, -10.0])  # a margin of 90: a gradient of about 1e-38
    y = (module(x)[:, 1] > module(x)[:, 0]).long()
    model, train = Model(module, Classify()), assay.read((x, y))
    tiny = np.abs(assay.attribute(model, train, train, GradDot()).array[2]).max()
    assert tiny < 1e-30
    array = assay.attribute(model, train, train, GradCos(compression=compression)).array
    assert np.abs(array).max() < 1 + 1e-5
    assert (array[2] == 0).all()
    assert (array[:, 2] == 0).all()
