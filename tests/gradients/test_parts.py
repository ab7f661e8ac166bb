"""Directional derivatives by term and by position, against backward passes and a transcription of the formula."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tests.support import (
    TEXTS,
    array_model,
    arrays,
    batch_of,
    classifier,
    examples,
    language_model,
    text_model,
    tokenizer,
)
from torch import Tensor, nn

from assay.errors import MethodError
from assay.gradients.functional import dense_gradients
from assay.gradients.parts import along_positions, along_terms
from assay.models import Model
from assay.tasks import Batch, CausalLM, Loss, Margin, Measurement
from assay.tasks.language import IGNORED

LONG = examples(TEXTS[1])


def direction(model: Model) -> dict[str, Tensor]:
    return {name: torch.randn_like(p) for name, p in model.parameters.items()}


def along(gradients: Mapping[str, Tensor], v: Mapping[str, Tensor]) -> float:
    return sum(float((gradients[name][0] * v[name]).sum()) for name in v)


def one_by_one(model: Model, batch: Batch, measurement: Measurement, v: Mapping[str, Tensor]) -> Tensor:
    """A backward pass for each token, all others left out of the labels."""
    labels, found = batch.tensors["labels"], []
    for t in range(labels.shape[1]):
        alone = torch.full_like(labels, IGNORED)
        alone[:, t] = labels[:, t]
        none = bool((alone == IGNORED).all())
        found.append(0.0 if none else along(dense_gradients(model, batch.replace(labels=alone), measurement), v))
    return torch.tensor(found, dtype=torch.float64)


# The model library computes RMSNorm in float32 whatever the weights are, forward and backward, so that the two modes
# of differentiation round differently there.
@pytest.mark.parametrize(
    ("kind", "changes", "tolerance"),
    [
        ("GPT2", {}, 1e-12),
        ("GPT2", {"attn_implementation": "sdpa"}, 1e-12),
        ("Llama", {"tie_word_embeddings": True}, 1e-5),
        ("Mixtral", {}, 1e-5),
    ],
)
@pytest.mark.parametrize("measurement", [Loss(), Margin()])
def test_terms_are_a_backward_pass_each(
    kind: str, changes: dict[str, Any], tolerance: float, measurement: Measurement
) -> None:
    model = text_model(kind, **changes)
    batch, v = batch_of(model, LONG), direction(model)
    found = along_terms(model, batch, measurement, v)
    expected = one_by_one(model, batch, measurement, v)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))
    assert float(expected.abs().max()) > 1
    total = along(dense_gradients(model, batch, measurement), v)
    assert abs(float(found.sum()) - total) < tolerance * float(expected.abs().sum())


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [("GPT2", 1e-12), ("Llama", 1e-12), ("Gemma3Text", 1e-6), ("Qwen3", 1e-12), ("Mixtral", 1e-6)],
)
def test_positions_sum_to_the_whole_without_a_rest(kind: str, tolerance: float) -> None:
    """Experts, routers that return tuples, and norms over heads are all arranged by position."""
    model = text_model(kind)
    batch, v = batch_of(model, LONG), direction(model)
    found = along_positions(model, batch, Loss(), v, batch.tensors["input_ids"].shape[1])
    total, size = along(dense_gradients(model, batch, Loss()), v), float(found.each.abs().sum())
    assert abs(found.elsewhere) < tolerance * size
    assert abs(float(found.each.sum()) - total) < tolerance * size
    assert int((found.each.abs() > 1e-3 * size).sum()) > 3


def test_positions_are_the_formula() -> None:
    """`sum_l d_t^T V_l a_t`, from inputs and output gradients caught by hooks of our own."""
    model = Model(language_model("GPT2"), CausalLM(tokenizer(), 64), modules=["*.mlp.*", "*.attn.*"])
    batch, v = batch_of(model, LONG), direction(model)
    caught: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = []
    for name, module in model.module.named_modules():
        if f"{name}.weight" in v:

            def keep(_: nn.Module, args: Any, output: Tensor, name: str = name) -> None:
                if output.requires_grad:  # not the probe for causality
                    output.register_hook(lambda d: caught.update({name: (args[0].detach()[0], d[0])}))

            hooks.append(module.register_forward_hook(keep))
    model.task.measure(model.module, batch, Loss()).sum().backward()
    for hook in hooks:
        hook.remove()
    expected = torch.zeros(batch.tensors["input_ids"].shape[1], dtype=torch.float64)
    for name, (a, d) in caught.items():  # Conv1D: y = a W + b
        expected += ((a @ v[f"{name}.weight"] + v[f"{name}.bias"]) * d).sum(1)
    found = along_positions(model, batch, Loss(), v, len(expected))
    torch.testing.assert_close(found.each, expected, rtol=1e-10, atol=1e-10)
    assert len(caught) == 8


def test_terms_and_positions_agree_at_the_output_layer_and_nowhere_else() -> None:
    """The loss of token t + 1 is made at position t."""
    for pattern, same in (("lm_head", True), ("*.layers.0.mlp.*", False)):
        model = Model(language_model("Qwen3"), CausalLM(tokenizer(), 64), modules=pattern)
        batch, v = batch_of(model, LONG), direction(model)
        terms = along_terms(model, batch, Loss(), v)
        positions = along_positions(model, batch, Loss(), v, len(terms)).each
        gap = float((terms[1:] - positions[:-1]).abs().max()) / float(terms.abs().sum())
        assert (gap < 1e-12) == same
        assert (gap > 0.01) != same


def test_the_padding_token_within_a_text_has_no_part() -> None:
    """Its embedding's row gets no gradient in a backward pass, and so must have none here."""
    model = text_model("Llama")
    batch, v = batch_of(model, examples("the cat <pad> sat on <pad> the mat")), direction(model)
    assert int((batch.tensors["input_ids"] == 0).sum()) == 2
    total = along(dense_gradients(model, batch, Loss()), v)
    assert abs(float(along_terms(model, batch, Loss(), v).sum()) - total) < 1e-5 * abs(total)
    found = along_positions(model, batch, Loss(), v, batch.tensors["input_ids"].shape[1])
    assert abs(found.elsewhere) < 1e-10 * abs(total)


def test_what_no_position_holds_is_given_back() -> None:
    """The pooler of a classifier reads one position and gives none."""
    model = classifier()
    batch, v = batch_of(model, examples({"text": TEXTS[1], "label": 2})), direction(model)
    found = along_positions(model, batch, Loss(), v, batch.tensors["input_ids"].shape[1])
    total = along(dense_gradients(model, batch, Loss()), v)
    assert abs(float(found.each.sum()) + found.elsewhere - total) < 1e-10 * abs(total)
    assert abs(found.elsewhere) > 1e-3 * abs(total)


def test_the_model_stays_as_it_is() -> None:
    model = text_model("GPT2")
    model.module.train()
    next(iter(model.module.parameters())).requires_grad_(False)
    model = Model(model.module, model.task)
    before = [(p.requires_grad, p.grad, p.clone()) for p in model.module.parameters()]
    batch, v = batch_of(model, LONG), direction(model)
    along_terms(model, batch, Loss(), v)
    along_positions(model, batch, Loss(), v, 3)
    assert all(m.training and not m._forward_hooks for m in model.module.modules())
    for p, (wanted, grad, value) in zip(model.module.parameters(), before, strict=True):
        assert (p.requires_grad, p.grad) == (wanted, grad)
        assert torch.equal(p, value)


class Stuck(torch.autograd.Function):
    """An operation with a backward pass only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return 2 * gradients[0]


class Odd(nn.Module):
    """A layer and that operation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return Stuck.apply(self.layer(x))


def test_an_operation_without_a_forward_mode_is_told() -> None:
    model = array_model(Odd())
    batch = batch_of(model, arrays(torch.randn(1, 3, dtype=torch.float64)))
    with pytest.raises(MethodError, match="forward-mode"):
        along_terms(model, batch, Loss(), direction(model))
