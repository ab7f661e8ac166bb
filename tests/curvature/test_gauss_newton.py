"""Products with the Gauss-Newton matrix against dense J^T D J by plain autograd, in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.support import TEXTS, batch_of, classifier, examples, language_model, shaken, text_model, tokenizer
from torch import Tensor, nn

import assay
from assay.curvature import gauss_newton
from assay.curvature.gauss_newton import GaussNewton
from assay.errors import MethodError, ModelError
from assay.examples import Examples
from assay.gradients.blocks import lay_out, to_parameters, to_vectors
from assay.models import Model
from assay.tasks import CausalLM, Classify, Custom, Regress


class CNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 2), nn.Linear(8, 3)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.gelu(self.two(F.max_pool2d(self.norm(self.one(x)).tanh(), 2))).flatten(1))


def arrays(shape: tuple[int, ...], classes: int | None) -> Examples:
    x = torch.randn(7, *shape, dtype=torch.float64)
    return assay.read((x, torch.randint(0, classes, (7,)) if classes else torch.randn(7, 2, dtype=torch.float64)))


def mlp(out: int) -> nn.Module:
    return shaken(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, out)).double())


CASES: dict[str, Callable[[], tuple[Model, Examples]]] = {
    "mlp": lambda: (Model(mlp(3), Classify()), arrays((4,), 3)),
    "regression": lambda: (Model(mlp(2), Regress()), arrays((4,), None)),
    "cnn": lambda: (Model(shaken(CNN().double()).eval(), Classify()), arrays((1, 8, 8), 3)),
    "llama": lambda: (text_model("Llama", tie_word_embeddings=True, num_hidden_layers=1), examples(*TEXTS)),
    "gpt2": lambda: (
        Model(language_model("GPT2", num_hidden_layers=1, attn_implementation="sdpa"), CausalLM(tokenizer(), 64)),
        examples(*({"prompt": t[:8], "completion": t[8:]} for t in TEXTS)),
    ),
    "some": lambda: (
        Model(language_model("Llama", num_hidden_layers=1), CausalLM(tokenizer(), 64), modules="*mlp*"),
        examples(*TEXTS),
    ),
    "bert": lambda: (classifier(), assay.read([{"text": t, "label": k % 3} for k, t in enumerate(TEXTS)])),
}


def dense(model: Model, rows: Examples, reduction: str) -> Tensor:
    """(1/n) sum_i J_i^T D_i J_i by a backward pass for every output and `torch.func.hessian` of the loss in the outputs."""
    blocks = lay_out(model).blocks
    total = torch.zeros(sum(b.size for b in blocks), sum(b.size for b in blocks), dtype=torch.float64)
    params = model.parameters
    for k in range(len(rows)):
        batch = batch_of(model, rows.select([k]))
        if isinstance(model.task, CausalLM):
            labels = batch.tensors["labels"][0]
            kept = [t for t in range(1, len(labels)) if labels[t] != -100]
            z = model.module(input_ids=batch.tensors["input_ids"]).logits[0][[t - 1 for t in kept]]
            y = labels[kept]
        else:
            z = model.task.outputs(model.module, batch)
            y = batch.tensors["labels" if "labels" in batch.tensors else "y"]
        J = torch.stack(
            [
                to_vectors(blocks, {n: g[None] for n, g in zip(params, grads(o, list(params.values())), strict=True)})[
                    0
                ]
                for o in z.flatten()
            ]
        )

        def loss(z: Tensor, y: Tensor = y) -> Tensor:
            if isinstance(model.task, Regress):
                return 0.5 * (z - y).square().sum()
            return F.cross_entropy(z, y, reduction=reduction)

        D = torch.func.hessian(loss)(z.detach()).reshape(z.numel(), z.numel())
        total += J.T @ D @ J
    return total / len(rows)


def assert_close(found: Tensor, right: Tensor, name: str) -> None:
    """To the last digits; the model library's RMSNorm computes in float32, whatever the model's dtype."""
    tolerance = 1e-6 if name in ("llama", "some") else 1e-10
    torch.testing.assert_close(found, right, rtol=0, atol=tolerance * float(right.abs().max()))


def grads(o: Tensor, params: list[Any]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(o, params, retain_graph=True, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("name", CASES)
def test_products_are_those_of_the_dense_matrix(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauss_newton, "POSITIONS", 20)  # several batches
    monkeypatch.setattr(gauss_newton, "NUMBERS", 1500)  # several portions of the vectors
    model, rows = CASES[name]()
    H = GaussNewton.on(model, rows, lay_out(model).blocks)
    assert H.vectorised
    assert len(H.batches) > 1 or name in ("mlp", "regression", "cnn")
    vectors = torch.randn(5, H.size, dtype=torch.float64)
    assert_close(H(vectors), vectors @ dense(model, rows, "sum"), name)


@pytest.mark.parametrize("vectorised", [True, False])
def test_a_mean_over_tokens_decay_and_one_vector_after_another(vectorised: bool) -> None:
    model, rows = CASES["llama"]()
    H = GaussNewton.on(model, rows, lay_out(model).blocks, "mean", decay=0.3)
    H = GaussNewton(H.model, H.blocks, H.batches, H.count, "mean", 0.3, vectorised)
    vectors = torch.randn(3, H.size, dtype=torch.float64)
    right = vectors @ dense(model, rows, "mean") + 0.3 * vectors
    assert_close(H(vectors), right, "llama")


def test_parts_average_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauss_newton, "POSITIONS", 2)
    model, rows = CASES["mlp"]()
    H = GaussNewton.on(model, rows, lay_out(model).blocks, decay=0.1)
    v = torch.randn(2, H.size, dtype=torch.float64)
    parts = [H.part(k) for k in range(len(H.batches))]
    assert len(parts) == 4
    torch.testing.assert_close(sum(part.count * part(v) for part in parts) / 7, H(v))


class Cubed(torch.autograd.Function):
    """With both derivatives, and no rule for batches of them."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] * 3 * ctx.saved_tensors[0] ** 2

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Any:
        return tangents[0] * 3 * ctx.saved_tensors[0] ** 2


def test_what_has_no_rule_for_batches_goes_vector_by_vector() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return Cubed.apply(self.line(x))

    model, rows = Model(shaken(Odd().double()), Classify()), arrays((4,), 3)
    H = GaussNewton.on(model, rows, lay_out(model).blocks)
    assert not H.vectorised
    v = torch.randn(2, H.size, dtype=torch.float64)
    torch.testing.assert_close(H(v), v @ dense(model, rows, "sum"))


def test_what_cannot_be_multiplied_is_refused_in_words() -> None:
    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x.tanh()

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(output)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Any:
            return gradients[0] * (1 - ctx.saved_tensors[0] ** 2)

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return Opaque.apply(self.line(x))

    model, rows = Model(Own().double(), Classify()), arrays((4,), 3)
    with pytest.raises(ModelError, match="Own has a layer without forward-mode derivative"):
        GaussNewton.on(model, rows, lay_out(model).blocks)
    custom = Model(mlp(2), Custom(lambda module, x, y: module(x).sum(1)))
    with pytest.raises(MethodError, match="'custom' knows its loss only"):
        GaussNewton.on(custom, rows, lay_out(custom).blocks)


def test_the_model_is_borrowed() -> None:
    model, rows = CASES["llama"]()
    model.module.train()
    frozen = model.module.get_submodule("model.norm").requires_grad_(False)
    H = GaussNewton.on(model, rows, lay_out(model).blocks)
    H(torch.randn(1, H.size, dtype=torch.float64))
    assert all(m.training for m in model.module.modules())
    assert all(p.requires_grad == (p is not frozen.weight) and p.grad is None for p in model.module.parameters())


@pytest.mark.parametrize("name", ["gpt2", "cnn", "llama"])
def test_vectors_divide_into_parameters_and_back(name: str) -> None:
    model, _ = CASES[name]()
    blocks, shapes = lay_out(model).blocks, {n: p.shape for n, p in model.parameters.items()}
    tensors = {n: torch.randn(2, *shape, dtype=torch.float64) for n, shape in shapes.items()}
    vectors = to_vectors(blocks, tensors)
    back = to_parameters(blocks, vectors, shapes)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[n], tensors[n]) for n in tensors)
