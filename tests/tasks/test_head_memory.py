"""Passes that take the head's gradients from memory against passes that run it, bit for bit."""

from typing import Any

import pytest
import torch
from tests.support import TEXTS, batch_of, examples, text_model
from torch import Tensor

from assay.curvature.base import Fit
from assay.curvature.ekfac import EKFAC
from assay.curvature.spectral import Spectral
from assay.gradients.blocks import lay_out
from assay.gradients.functional import requiring_gradients
from assay.models import Model
from assay.tasks import Loss, Sampled, head

ROWS = examples(*TEXTS)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens of each call of the head so far."""
    seen: list[int] = []
    inner = Sampled.with_gradient

    def counted(self: Sampled, logits: Tensor, target: Tensor) -> Any:
        seen.append(len(logits))
        return inner(self, logits, target)

    monkeypatch.setattr(Sampled, "with_gradient", counted)
    return seen


def fitted(model: Model, reduction: Any = "sum") -> Spectral:
    operator = EKFAC().fit(Fit(model, ROWS, lay_out(model), Loss(reduction)))
    assert isinstance(operator, Spectral)
    return operator


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_eigenvalues_of_ekfac_need_no_head(
    reduction: str, runs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = text_model("Llama")
    model = Model(whole.module, whole.task, modules="*_proj")
    found = fitted(model, reduction)
    once = sum(runs)
    runs.clear()
    monkeypatch.setattr(head, "REMEMBERED", 0)
    expected = fitted(model, reduction)
    assert sum(runs) == 2 * once
    for a, b in zip(found.eigenvalues, expected.eigenvalues, strict=True):
        assert torch.equal(a, b)


def test_a_head_that_takes_part_runs_each_time(runs: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own gradient is seen while it runs."""
    model = text_model("Llama")
    found, seen = fitted(model), sum(runs)
    runs.clear()
    monkeypatch.setattr(head, "REMEMBERED", 0)
    expected = fitted(model)
    assert sum(runs) == seen
    for a, b in zip(found.eigenvalues, expected.eigenvalues, strict=True):
        assert torch.equal(a, b)


def test_other_measurements_and_seeds_are_told_apart() -> None:
    model = text_model("Llama")
    batch, task = batch_of(model, ROWS), model.task
    source = next(model.module.parameters())

    def gradient(measurement: Loss | Sampled) -> Tensor:
        with requiring_gradients(model.module, [model.parameters["model.layers.0.mlp.up_proj.weight"]]):
            value = task.measure(model.module, batch, measurement)
            (found,) = torch.autograd.grad(value.sum(), model.parameters["model.layers.0.mlp.up_proj.weight"])
        return found

    assert source.requires_grad
    kinds = [Loss(), Sampled(), Sampled(seed=1), Loss("mean"), Sampled("mean")]
    expected = [gradient(kind) for kind in kinds]
    with head.heads_remembered(()):
        for _ in range(2):
            for kind, g in zip(kinds, expected, strict=True):
                assert torch.equal(gradient(kind), g)


def test_there_is_an_end_to_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = text_model("Llama")
    one = batch_of(model, ROWS).select(0)
    counts = int((one.tensors["labels"][:, 1:] != -100).sum())
    monkeypatch.setattr(head, "REMEMBERED", counts * model.module.config.hidden_size)  # type: ignore[union-attr]
    memory = head.HeadMemory(())
    width = model.module.config.hidden_size  # type: ignore[union-attr]
    example = torch.zeros(counts, dtype=torch.long)
    memory.keep(Loss(), ("a",), example, torch.zeros(counts), torch.zeros(counts, width))
    memory.keep(Loss(), ("b",), example, torch.zeros(counts), torch.zeros(counts, width))
    assert memory.recall(Loss(), ("a",)) is not None
    assert memory.recall(Loss(), ("b",)) is None
    assert memory.recall(Loss(), ("a", "b")) is None
