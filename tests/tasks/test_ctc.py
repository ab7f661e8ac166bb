"""The CTC task and the alignment against enumeration of all paths."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from tests.speech_toy import SYMBOLS, Linear, Recordings, spoken
from torch import nn

import assay
from assay.errors import DataError, MethodError, ModelError
from assay.methods.speech.alignment import align
from assay.tasks import CTC, Batch, Loss, Margin

TASK = CTC(SYMBOLS)


def merged(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(s for k, s in enumerate(path) if s and (k == 0 or path[k - 1] != s))


def short(seed: int, labels: str, time: int = 5) -> tuple[torch.Tensor, str]:
    return torch.randn(time, 6, generator=torch.Generator().manual_seed(seed)), labels


def batch(*pairs: tuple[torch.Tensor, str]) -> Batch:
    return TASK.collate([TASK.encode(example) for example in assay.read(Recordings(list(pairs)))])


@pytest.mark.parametrize("labels", ["a", "ab", "aa", "bab"])
def test_loss_and_alignment_are_those_of_all_paths(labels: str) -> None:
    torch.manual_seed(0)
    module, one = Linear().double(), batch(short(1, labels))
    scores = TASK.log_probabilities(module, one)[0].detach().numpy()
    target = tuple(SYMBOLS.index(s) + 1 for s in labels)
    paths = [p for p in product(range(5), repeat=5) if merged(p) == target]
    totals = np.array([scores[np.arange(5), p].sum() for p in paths])
    expected = -np.log(np.exp(totals).sum())
    assert float(TASK.measure(module, one, Loss()).detach()) == pytest.approx(expected, abs=1e-10)
    path, score = align(scores, np.array(target))
    assert tuple(path.tolist()) == paths[int(totals.argmax())]
    assert score * 5 == pytest.approx(totals.max(), abs=1e-10)
    assert TASK.decode(path.tolist()) == labels


def test_padding_does_not_matter() -> None:
    module = Linear().double()
    pairs = [short(1, "ab", 5), short(2, "c", 9)]
    together = TASK.measure(module, batch(*pairs), Loss())
    alone = torch.cat([TASK.measure(module, batch(pair), Loss()) for pair in pairs])
    torch.testing.assert_close(together, alone)
    features = torch.cat([TASK.features(module, batch(pair)) for pair in pairs])
    torch.testing.assert_close(TASK.features(module, batch(*pairs)), features)


def test_scores_by_gradients_go_through_the_task() -> None:
    model = assay.Model(Linear(4).double(), TASK)
    data = Recordings([(x.double(), y) for x, y in spoken(4, 0)])
    scores = assay.attribute(model, data, data, "graddot").array
    gradients = []
    for example in assay.read(data):
        loss = TASK.measure(model.module, TASK.collate([TASK.encode(example)]), Loss()).sum()
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.module.parameters()))]))
    stacked = torch.stack(gradients)
    expected = (stacked @ stacked.T).detach().numpy() * (scores[0, 0] / float(stacked[0] @ stacked[0]))
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("pair", "match"),
    [
        (short(0, "aaa", 4), "too few"), (short(0, "xyz"), "none of the symbols"), (short(0, ""), "no transcript"),
        ((torch.zeros(4), "a"), "frames"),
    ],
)  # fmt: skip
def test_utterances_that_do_not_fit_are_refused(pair: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        batch(pair)


def test_modules_and_measurements_that_do_not_fit_are_refused() -> None:
    class Wrong(Linear):
        def forward(self, x: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
            return super().forward(x, frames)[:, :, 1:]

    one = batch(short(1, "a"))
    with pytest.raises(ModelError, match="logits"):
        TASK.measure(Wrong(), one, Loss())
    with pytest.raises(MethodError, match="loss only"):
        TASK.measure(Linear(), one, Margin())
    with pytest.raises(ModelError, match="linear layer"):
        TASK.frames(nn.Identity(), one)
    with pytest.raises(MethodError, match="different symbols"):
        CTC("aa")
