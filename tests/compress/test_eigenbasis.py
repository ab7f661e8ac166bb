"""The eigenbasis of a language model's layers: padding and batches play no part, one-hot sides are left alone."""

import pytest
import torch
from tests.support import TEXTS, examples, text_model
from torch import Tensor

from assay.compress import Eigenbasis, parse
from assay.gradients import features
from assay.gradients.blocks import lay_out
from assay.gradients.sketch import Evidence
from assay.models import Model
from assay.tasks import Loss

ROWS = examples(*TEXTS)


def fitted(model: Model) -> dict[str, Tensor]:
    found = Eigenbasis(rank=4).fit(Evidence(model, ROWS, Loss(), lay_out(model)))
    return dict(found.found())


def test_padding_and_batches_play_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of 6 to 15 tokens side by side, or one at a time."""
    model = text_model("Llama", num_hidden_layers=1)
    together = fitted(model)
    monkeypatch.setattr(features, "EXAMPLES", 1)
    alone = fitted(model)
    assert together.keys() == alone.keys()
    for name, basis in together.items():
        torch.testing.assert_close(basis, alone[name], msg=name)


def test_one_hot_sides_and_short_ones_have_no_basis() -> None:
    model = text_model("Llama", tie_word_embeddings=False, num_hidden_layers=1)
    names = {block.name: k for k, block in enumerate(lay_out(model).blocks)}
    found = fitted(model)
    embedding, head = names["model.embed_tokens"], names["lm_head"]
    assert f"{embedding}.left" not in found
    assert f"{embedding}.right" in found
    assert found[f"{head}.left"].shape == (30, 4)
    assert f"{names['model.norm.weight']}.right" not in found
    for basis in found.values():
        torch.testing.assert_close(basis.T @ basis, torch.eye(4, dtype=basis.dtype))


def test_a_name_on_the_command_line() -> None:
    assert str(parse("eigen")) == "eigen:64"
    assert parse("eigen:3", 5) == Eigenbasis(seed=5, rank=3)
