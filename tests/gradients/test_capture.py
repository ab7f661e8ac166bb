"""Whole models, the chunked head, invariances, and a module that comes back as it was."""

import copy
import itertools
from typing import Any

import pytest
import torch
from tests.support import (
    TEXTS,
    array_model,
    arrays,
    assert_gradients,
    batch_of,
    captured,
    classifier,
    examples,
    language_model,
    naive_losses,
    shaken,
    text_model,
    tokenizer,
    true,
)
from torch import Tensor, nn

from assay.compress import SJLT, Factored, Identity
from assay.compress.against import Against
from assay.gradients.blocks import lay_out
from assay.gradients.capture import capturing
from assay.models import Model
from assay.tasks import CausalLM, Loss, Margin, head
from assay.tasks.measurements import Measurement

ROWS = examples(*TEXTS)
KINDS = ["Llama", "GPT2", "Gemma2", "Gemma3Text", "Qwen2", "Qwen3", "Mixtral", "GPTNeoX"]
SINGLE = {"Gemma2", "Gemma3Text"}  # their norms compute in float32


@pytest.mark.parametrize("kind", KINDS)
def test_language_models(kind: str) -> None:
    model = text_model(kind)
    batch = batch_of(model, ROWS)
    assert_gradients(model, batch, tolerance=1e-5 if kind in SINGLE else 1e-9)
    layout = lay_out(model)
    experts = {layout.blocks[k].name.rpartition(".")[2] for k in layout.direct}
    assert experts == ({"gate_up_proj", "down_proj", "weight"} if kind == "Mixtral" else set())
    assert layout.coverage == 1


def test_against_the_model_librarys_logits() -> None:
    """The same without any of our code between parameters and gradient."""
    model = text_model("Llama", tie_word_embeddings=True)
    batch = batch_of(model, ROWS)
    found, values = captured(model, batch, Loss("mean"))
    losses = naive_losses(model.module, batch, "mean")
    torch.testing.assert_close(values, losses.detach())
    for b, loss in enumerate(losses):
        expected = torch.autograd.grad(loss, list(model.parameters.values()), retain_graph=True)
        for name, gradient in zip(model.parameters, expected, strict=True):
            block = name if name in found else name.removesuffix(".weight")
            torch.testing.assert_close(found[block][b], gradient.flatten())


@pytest.mark.parametrize("kind", ["Llama", "GPT2", "Gemma2"])
def test_tied_output_embeddings_are_one_block(kind: str) -> None:
    model = text_model(kind, tie_word_embeddings=True)
    assert not any("lm_head" in block.name for block in lay_out(model).blocks)
    assert_gradients(model, batch_of(model, ROWS), tolerance=1e-5 if kind in SINGLE else 1e-9)


def test_sequence_classifier() -> None:
    model = classifier()
    rows = examples(*({"text": text, "label": k % 3} for k, text in enumerate(TEXTS)))
    assert_gradients(model, batch_of(model, rows))
    assert not lay_out(model).direct


def lora(**changes: Any) -> Model:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], lora_dropout=0.1, **changes)
    module = peft.get_peft_model(language_model("Llama"), config)
    for name, parameter in module.named_parameters():
        if "lora" in name:
            nn.init.normal_(parameter.data, std=0.3)
    return Model(module.double(), CausalLM(tokenizer(), 64))


def test_adapters_take_part_alone() -> None:
    model = lora()
    layout = lay_out(model)
    assert {block.name.split(".")[-2] for block in layout.blocks} == {"lora_A", "lora_B"}
    assert len(layout.blocks) == 2 * 2 * 2
    assert not layout.direct
    assert layout.coverage == 1
    assert_gradients(model, batch_of(model, ROWS))
    assert head.find_head(model.module) is not None


def test_adapters_with_inputs_that_require_gradients() -> None:
    """As gradient checkpointing arranges it: then the graph has leaves that are not ours."""
    model = lora()
    model.module.enable_input_require_grads()  # pyright: ignore[reportCallIssue]
    assert_gradients(model, batch_of(model, ROWS))


def test_adapters_whose_weights_are_used_functionally() -> None:
    """DoRA multiplies lora_A and lora_B itself: the rules miss that, the self-check is there for it."""
    from assay.gradients.verify import verified_layout

    model = lora(use_dora=True)
    batch = batch_of(model, ROWS)
    layout = verified_layout(model, batch.select(0), Loss(), Factored(rank=4))
    assert_gradients(model, batch, layout=layout)


def test_sums_of_products_of_a_whole_model() -> None:
    model = text_model("Llama")
    batch = batch_of(model, ROWS)
    with capturing(model, Identity()) as capture:
        features, _ = capture(batch, Loss())
    whole = torch.cat(list(true(model, batch).values()), 1)
    torch.testing.assert_close(features @ features.T, whole @ whole.T)


# -- the head in chunks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measurement", [Loss("sum"), Loss("mean"), Margin("sum"), Margin("mean")], ids=str)
@pytest.mark.parametrize("tied", [True, False])
def test_chunks_that_split_examples(measurement: Measurement, tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = text_model("Llama", tie_word_embeddings=tied)
    batch = batch_of(model, ROWS)
    expected = true(model, batch, measurement)
    for tokens in (1, 3, 5, 1000):
        monkeypatch.setattr(head, "CHUNK_ELEMENTS", tokens * 30)
        found, values = captured(model, batch, measurement)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient)
        with torch.no_grad():
            torch.testing.assert_close(model.task.measure(model.module, batch, measurement), values)
    if isinstance(measurement, Loss):
        torch.testing.assert_close(values, naive_losses(model.module, batch, measurement.reduction).detach())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)], ids=str)
@pytest.mark.parametrize("measurement", [Loss("sum"), Margin("mean")], ids=str)
def test_chunks_in_lower_precision(
    measurement: Measurement, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the order of the format's rounding, against the plain graph in the same precision."""
    model = text_model("Llama", dtype=dtype)
    batch = batch_of(model, ROWS)
    plain = torch.cat(list(true(model, batch, measurement).values()), 1).float()
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 90)
    found, values = captured(model, batch, measurement)
    ours = torch.cat(list(found.values()), 1)
    assert float((ours - plain).norm()) < tolerance * float(plain.norm())
    assert values.dtype == torch.float32
    assert ours.dtype == torch.float32


def test_capped_logits_are_not_taken_for_a_plain_head() -> None:
    """With small logits a soft cap is the identity to rounding; the head must not be fooled by that."""
    capped = language_model("Gemma2", dtype=torch.float32, final_logit_softcapping=30.0)
    with torch.no_grad():
        for parameter in capped.parameters():
            parameter *= 0.01
    assert head.find_head(capped) is None
    assert head.find_head(language_model("Gemma2", final_logit_softcapping=None)) is not None
    assert head.find_head(nn.Linear(3, 3)) is None


def test_a_head_that_is_replaced_is_found_again() -> None:
    module: Any = language_model("Llama")
    before = head.find_head(module)
    module.lm_head = nn.Linear(16, 30, dtype=torch.float64)
    after = head.find_head(module)
    assert before is not None
    assert after is not None
    assert after.linear is module.lm_head


def test_only_the_head_takes_part() -> None:
    """Nothing before the head needs a gradient, so no graph leads there."""
    model = Model(language_model("Llama"), CausalLM(tokenizer(), 64), modules="lm_head")
    layout = lay_out(model)
    assert [block.name for block in layout.blocks] == ["lm_head"]
    assert layout.coverage == 480 / model.size
    assert_gradients(model, batch_of(model, ROWS))


@pytest.mark.parametrize("pattern", ["*.mlp.*", "*self_attn*", "model.embed_tokens", "*layers.1.*.weight"])
def test_chosen_modules_only(pattern: str) -> None:
    model = Model(language_model("Llama"), CausalLM(tokenizer(), 64), modules=pattern)
    assert_gradients(model, batch_of(model, ROWS))
    assert 0 < lay_out(model).coverage < 1


# -- invariances -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [Identity(), Factored(rank=3), SJLT(dim=50)], ids=str)
@pytest.mark.parametrize("kind", ["GPT2", "Mixtral", "Bert"])
def test_an_example_has_the_same_features_in_any_batch(kind: str, compression: Any) -> None:
    model = classifier() if kind == "Bert" else text_model(kind)
    rows = examples(*({"text": text, "label": 1} for text in TEXTS)) if kind == "Bert" else ROWS
    with capturing(model, compression) as capture:
        together, values = capture(batch_of(model, rows), Loss())
        for order in itertools.islice(itertools.permutations(range(len(rows))), 0, 24, 7):
            permuted, _ = capture(batch_of(model, rows.select(order)), Loss())
            torch.testing.assert_close(permuted, together[list(order)], rtol=1e-7, atol=1e-9)
        for k in range(len(rows)):  # alone, and so without padding
            alone, value = capture(batch_of(model, rows[k : k + 1]), Loss())
            torch.testing.assert_close(alone[0], together[k], rtol=1e-7, atol=1e-9)
            torch.testing.assert_close(value[0], values[k])


def test_equal_examples_have_equal_features() -> None:
    model = text_model("Llama")
    with capturing(model, Factored(rank=3)) as capture:
        features, _ = capture(batch_of(model, examples("the cat sat", "a dog", "the cat sat")), Loss())
    torch.testing.assert_close(features[0], features[2])


@pytest.mark.parametrize("kind", ["Llama", "GPT2"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)], ids=str)
def test_half_precision(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    """Features within 5% (bfloat16) and 1% (float16) of float32's for equal weights, and the same ranking wherever
    float32's scores are further apart than that."""
    exact = text_model(kind, dtype=dtype)
    wide = Model(copy.deepcopy(exact.module).float(), exact.task)
    products: list[Tensor] = []
    features: list[Tensor] = []
    for model in (exact, wide):
        with capturing(model, Factored(rank=8)) as capture:
            phi, _ = capture(batch_of(model, ROWS), Loss())
        assert phi.dtype == torch.float32
        features.append(phi)
        products.append(phi @ phi.T)
    errors = (features[0] - features[1]).norm(dim=1) / features[1].norm(dim=1)
    assert float(errors.max()) < tolerance
    half, full = products
    norms = features[1].norm(dim=1)
    for i, j, q in itertools.product(range(len(ROWS)), repeat=3):
        if full[i, q] - full[j, q] > 4 * tolerance * norms[q] * norms.max():
            assert half[i, q] > half[j, q]


# -- the module comes back -------------------------------------------------------------------------------------------


def state(module: nn.Module) -> dict[str, Any]:
    """Everything that we promise to leave as it is."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "weights": {name: (id(v), v.dtype, v.clone()) for name, v in module.state_dict(keep_vars=True).items()},
        "requires": {name: p.requires_grad for name, p in module.named_parameters()},
        "grads": {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()},
        "training": {name: m.training for name, m in module.named_modules()},
        "hooks": {name: [dict(getattr(m, hook)) for hook in hooks] for name, m in module.named_modules()},
        "dict": {name: sorted(vars(m)) for name, m in module.named_modules()},
        "types": {name: type(m) for name, m in module.named_modules()},
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    for name in ("requires", "training", "hooks", "dict", "types"):
        assert before[name] == after[name], name
    for name, (identity, dtype, value) in before["weights"].items():
        assert after["weights"][name][:2] == (identity, dtype)
        assert torch.equal(after["weights"][name][2].view(torch.uint8), value.view(torch.uint8)), name
    for name, grad in before["grads"].items():
        other = after["grads"][name]
        assert (grad is None and other is None) or torch.equal(grad, other), name


def used() -> Model:
    """A model in the middle of its user's training: modes, flags, gradients and hooks of its own."""
    module = language_model("Mixtral")
    module.train()
    parts = dict(module.named_modules())
    parts["model.layers.0"].eval()
    parts["model.layers.1.self_attn.q_proj"].weight.requires_grad_(False)  # pyright: ignore
    parts["model.norm"].register_forward_hook(lambda *_: None)
    for k, parameter in enumerate(module.parameters()):
        parameter.grad = torch.randn_like(parameter) if k % 2 else None
    return Model(module, CausalLM(tokenizer(), 64))


def test_the_module_comes_back_as_it_was() -> None:
    model = used()
    before = state(model.module)
    with capturing(model, Factored(rank=2)) as capture:
        capture(batch_of(model, ROWS), Loss())
        assert not any(m.training for m in model.module.modules())
    assert_same(before, state(model.module))


@pytest.mark.parametrize("where", ["forward", "backward", "by example"])
def test_the_module_comes_back_after_an_error(where: str) -> None:
    model = used()
    calls: list[int] = []

    def fail(*_: Any) -> None:
        calls.append(1)
        if where != "by example" or len(calls) > 2:
            raise ZeroDivisionError

    def fail_late(module: nn.Module, args: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(fail)

    layer = dict(model.module.named_modules())["model.layers.1.input_layernorm"]
    handle = layer.register_forward_hook(fail_late if where == "backward" else fail)
    before = state(model.module)
    with pytest.raises(ZeroDivisionError), capturing(model, Factored(rank=2)) as capture:
        capture(batch_of(model, ROWS), Loss())
    assert_same(before, state(model.module))
    handle.remove()


def test_a_capture_within_a_capture() -> None:
    """Queries may be captured while training examples are on their way."""
    model = text_model("Mixtral")
    batch = batch_of(model, ROWS)
    with capturing(model, Identity()) as outer:
        first, _ = outer(batch, Loss())
        with capturing(model, Factored(rank=2)) as inner:
            inner(batch, Loss())
        second, _ = outer(batch, Loss())
    assert torch.equal(first, second)


# -- layers that do not hold to their first arrangement --------------------------------------------------------------


class Routed(nn.Module):
    """Experts that see a list of the tokens routed to them, so sometimes a multiple of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(4, 3), nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, 4)
        probability = self.router(flat).softmax(1)
        chosen = probability.argmax(1)
        out = torch.zeros_like(flat)
        for k, expert in enumerate(self.experts):
            mine = (chosen == k).nonzero()[:, 0]
            if len(mine):
                out = out.index_add(0, mine, expert(flat[mine]) * probability[mine, k, None])
        return out.reshape(x.shape)


def test_tokens_routed_to_experts_are_not_taken_for_examples() -> None:
    from assay.gradients.verify import verified_layout

    model = array_model(Routed())
    rows = arrays(torch.randn(12, 3, 4))
    for pair in ([0, 1], [2, 3], [4, 5]):
        layout = verified_layout(model, batch_of(model, rows.select(pair)), Loss(), Factored(rank=4))
        assert len(layout.sites) - len(layout.unseen) < 4
        for size in (1, 2, 3, 4):
            assert_gradients(model, batch_of(model, rows[:size]), layout=layout)


@pytest.mark.parametrize("tied", [True, False])
def test_products_with_given_gradients(tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one sketch that is not linear: tied, chunked and repeated layers are summed before they are multiplied."""
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 90)
    model = text_model("Llama", tie_word_embeddings=tied)
    batch = batch_of(model, ROWS)
    with capturing(model, Identity()) as capture:
        whole, _ = capture(batch, Loss())
    with capturing(model, Against(psi=whole[:2].clone(), squares=True)) as capture:
        products, _ = capture(batch, Loss())
    torch.testing.assert_close(products[:, :2], whole @ whole[:2].T)
    torch.testing.assert_close(products[:, 2], whole.square().sum(1))


def test_products_where_a_layer_is_used_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.norm(self.layer(self.norm(x))))

    model = Model(shaken(Twice().double()), array_model(nn.Linear(1, 1)).task)
    batch = batch_of(model, arrays(torch.randn(3, 4)))
    with capturing(model, Identity()) as capture:
        whole, _ = capture(batch, Loss())
    with capturing(model, Against(psi=whole[:1].clone(), squares=True)) as capture:
        products, _ = capture(batch, Loss())
    torch.testing.assert_close(products[:, 1], whole.square().sum(1))
