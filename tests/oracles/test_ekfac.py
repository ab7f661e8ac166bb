"""The influence methods against naive transcriptions, exact influence and real removal."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import TEXTS, batch_of, examples, shaken, text_model, true
from torch import Tensor, nn

import assay
from assay.errors import IndexMismatch, MethodError
from assay.examples import Examples
from assay.gradients.blocks import lay_out
from assay.methods import EKFAC, KFAC, METHODS, Diagonal, GradDot
from assay.methods.gradient import live
from assay.models import Model
from assay.tasks import Classify, Loss, Measurement, Regress, Sampled

TRAIN = examples(*TEXTS, "the cat", "you saw a big dog and a tree", "who are you", "a dog ran")
QUERIES = examples("the dog sat under the tree .", "hello who are you", "a big cat ran and saw the red mat")
KINDS = (Diagonal, KFAC, EKFAC)


def llama(**changes: Any) -> tuple[Model, Examples, Examples]:
    return text_model("Llama", num_hidden_layers=1, tie_word_embeddings=True, **changes), TRAIN, QUERIES


def cnn() -> tuple[Model, Examples, Examples]:
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 2, 3, stride=2), nn.Flatten(), nn.Linear(8, 3)
    )
    x, y = torch.randn(14, 1, 5, 5, dtype=torch.float64), torch.randint(0, 3, (14,))
    return Model(shaken(module.double()).eval(), Classify()), assay.read((x[:11], y[:11])), assay.read((x[11:], y[11:]))


def gradients(model: Model, rows: Examples, measurement: Measurement) -> dict[str, Tensor]:
    """By block [n, rows, cols], each example alone."""
    alone = [true(model, batch_of(model, rows[k : k + 1]), measurement) for k in range(len(rows))]
    sizes = {b.name: (b.rows, b.cols) for b in lay_out(model).blocks}
    return {name: torch.cat([one[name] for one in alone]).reshape(-1, *sizes[name]) for name in sizes}


def sides(model: Model, rows: Examples) -> dict[str, tuple[Tensor, Tensor]]:
    """Sampled output gradients d and inputs a, all positions one behind another, by block; of tied embeddings both sites."""
    layers = {n: m for n, m in model.module.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.Embedding))}
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    kept: list[tuple[str, Tensor, Tensor]] = []

    def keep(name: str, layer: nn.Module, x: Tensor, output: Tensor) -> None:
        output.retain_grad()
        kept.append((name, x.detach(), output))

    handles = [m.register_forward_hook(lambda m, x, y, name=name: keep(name, m, x[0], y)) for name, m in layers.items()]
    for k in range(len(rows)):
        model.task.measure(model.module, batch_of(model, rows[k : k + 1]), Sampled()).sum().backward()
        for name, x, output in kept:
            layer = layers[name]
            if isinstance(layer, nn.Conv2d):
                a = nn.functional.unfold(x, layer.kernel_size, padding=layer.padding, stride=layer.stride)[0].T
                d = output.grad[0].flatten(1).T
            elif isinstance(layer, nn.Embedding):
                d, a = nn.functional.one_hot(x[0], layer.num_embeddings).to(output), output.grad[0]
            else:
                a, d = x.reshape(-1, x.shape[-1]), output.grad.reshape(-1, output.shape[-1])
            if name == "lm_head":  # the last position predicts nothing; the chunked head never sees it
                a, d = a[:-1], d[:-1]
            if getattr(layer, "bias", None) is not None:
                a = torch.cat([a, torch.ones(len(a), 1, dtype=a.dtype)], 1)
            found.setdefault("model.embed_tokens" if name == "lm_head" else name, []).append((d, a))
        kept.clear()
    for handle in handles:
        handle.remove()
    model.module.zero_grad()
    return {name: (torch.cat([d for d, _ in pairs]), torch.cat([a for _, a in pairs])) for name, pairs in found.items()}


def naive(kind: type[Any], model: Model, train: Examples, queries: Examples) -> Tensor:
    """The formulas of the paper, a block after another, every matrix formed."""
    g, psi = gradients(model, train, Loss()), gradients(model, queries, Loss("mean"))
    fisher, known = gradients(model, train, Sampled()), sides(model, train)
    total = torch.zeros(len(train), len(queries), dtype=torch.float64)
    for name, G in g.items():
        lam_values = fisher[name].square().mean(0)
        Q_S, Q_A = torch.eye(G.shape[1], dtype=torch.float64), torch.eye(G.shape[2], dtype=torch.float64)
        if kind is not Diagonal and name in known:
            d, a = known[name]
            L_S, Q_S = torch.linalg.eigh(d.T @ d / len(d))
            L_A, Q_A = torch.linalg.eigh(a.T @ a / len(a))
            turned = Q_S.T @ fisher[name] @ Q_A
            corrected, products = turned.square().mean(0), len(a) / len(train) * torch.outer(L_S, L_A)
            lam_values = corrected if kind is EKFAC else products
        lam = 0.1 * lam_values.mean()
        V = Q_S @ ((Q_S.T @ psi[name] @ Q_A) / (lam_values + lam)) @ Q_A.T
        total += torch.einsum("nij,qij->nq", G, V) / len(train)
    return total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", [llama, cnn])
def test_naive_transcription(kind: type[Any], case: Any) -> None:
    model, train, queries = case()
    expected = naive(kind, model, train, queries)
    scores = assay.attribute(model, train, queries, kind())
    assert scores.unit == "nats of query loss per removed example"
    error = float((torch.from_numpy(scores.array).double() - expected).abs().max() / expected.abs().max())
    assert error < 1e-5


def ridge() -> tuple[Model, Tensor, Tensor]:
    """A linear regression at the minimum of J."""
    x, y = torch.randn(60, 4, dtype=torch.float64), torch.randn(60, dtype=torch.float64)
    x[:, -1] = 1.0
    module = nn.Linear(4, 1, bias=False).double()
    with torch.no_grad():
        module.weight.copy_(torch.linalg.lstsq(x, y[:, None]).solution.T)
    return Model(module, Regress()), x, y


@pytest.mark.parametrize("kind", [KFAC, EKFAC])
def test_linear_regression_has_the_exact_influence_and_nearly_the_true_one(kind: type[Any]) -> None:
    """K-FAC's A is the Hessian itself and S the mean square of the drawn noise, a known number; so scores are the exact
    influence up to that number, and the true effect of leaving an example out up to its leverage.
    """
    model, x, y = ridge()
    train, queries = assay.read((x, y)), assay.read((x[:7] + 0.1, y[:7]))
    residual = (model.module(x).squeeze(1) - y).detach()
    asked = (model.module(x[:7] + 0.1).squeeze(1) - y[:7]).detach()
    hessian = x.T @ x / 60
    exact = (residual[:, None] * x) @ torch.linalg.inv(hessian) @ (asked[:, None] * (x[:7] + 0.1)).T / 60
    scores = torch.from_numpy(assay.attribute(model, train, queries, kind(damping=0.0)).array).double()
    noise = torch.cat([Sampled().noise(1, [id]) for id in train.ids]).square().mean()
    if kind is KFAC:
        torch.testing.assert_close(scores * noise, exact, rtol=1e-5, atol=1e-7)
    removed = torch.zeros(60, 7, dtype=torch.float64)
    for i in range(60):
        keep = torch.arange(60) != i
        w = torch.linalg.lstsq(x[keep], y[keep, None]).solution
        removed[i] = 0.5 * (((x[:7] + 0.1) @ w).squeeze(1) - y[:7]).square() - 0.5 * asked.square()
    correlation = np.corrcoef(scores.flatten(), removed.flatten())[0, 1]
    assert correlation > (0.99 if kind is KFAC else 0.95)
    slope = float((scores * noise * removed).sum() / (scores * noise).square().sum())
    assert 0.8 < slope < 1.3


def test_much_damping_is_graddot() -> None:
    model, train, queries = cnn()
    dot = assay.attribute(model, train, queries, GradDot()).array
    for kind in KINDS:
        scores = assay.attribute(model, train, queries, kind(damping=1e7)).array
        np.testing.assert_allclose(scores * 1e7 * len(train), dot, atol=1e-5 * np.abs(dot).max())


def test_low_rank_queries_are_as_near_as_asked() -> None:
    model, train, queries = llama()
    exact = assay.attribute(model, train, queries, EKFAC()).array
    tiny = assay.attribute(model, train, queries, EKFAC(low_rank=1e-6)).array
    np.testing.assert_allclose(tiny, exact, atol=1e-5 * np.abs(exact).max())
    rough = assay.attribute(model, train, queries, EKFAC(low_rank=0.3)).array
    assert 0 < np.abs(rough - exact).max() < 0.3 * np.abs(exact).max()
    assert np.corrcoef(rough.flatten(), exact.flatten())[0, 1] > 0.95


@pytest.mark.parametrize("kind", [EKFAC, GradDot])
def test_groups_of_layers_one_after_another_give_the_same(kind: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the queries' gradients do not fit into memory together."""
    model, train, queries = llama()
    expected = assay.attribute(model, train, queries, kind()).array
    passes = 0
    parts = live.Live._parts

    def counted(*given: Any) -> Any:
        nonlocal passes
        for part in parts(*given):
            passes += 1
            yield part

    monkeypatch.setattr(live.Live, "_parts", counted)
    monkeypatch.setattr(live, "MOST_NUMBERS", 1500)
    scores = assay.attribute(model, train, queries, kind())
    assert passes > 2
    np.testing.assert_allclose(scores.array, expected, atol=1e-5 * np.abs(expected).max())
    assert scores.coverage == 1
    with pytest.raises(MethodError, match="fewer queries"):
        assay.attribute(model, train, queries, "gradcos")


def test_options(tmp_path: Path) -> None:
    model, train, queries = cnn()
    plain = assay.attribute(model, train, queries, EKFAC()).array
    kept = assay.attribute(model, train, queries, EKFAC(factors=str(tmp_path / "factors"))).array
    np.testing.assert_array_equal(kept, plain)
    assert (tmp_path / "factors" / "manifest.json").is_file()
    np.testing.assert_array_equal(
        assay.attribute(model, train, queries, EKFAC(factors=str(tmp_path / "factors"))).array, plain
    )
    with pytest.raises(IndexMismatch, match="training data"):
        assay.attribute(model, train[:9], queries, EKFAC(factors=str(tmp_path / "factors")))
    assert not np.allclose(assay.attribute(model, train, queries, EKFAC(fisher="empirical")).array, plain, rtol=0.05)
    some = assay.attribute(model, train, queries, EKFAC(fitting_examples=6)).array
    assert not np.allclose(some, plain, rtol=1e-3)
    for wrong in (
        {"damping": -1.0},
        {"damping": "much"},
        {"fisher": "true"},
        {"low_rank": 1.0},
        {"fitting_examples": 0},
    ):
        with pytest.raises(MethodError, match=next(iter(wrong))):
            EKFAC(**wrong)
    assert {EKFAC, KFAC, Diagonal} <= set(METHODS)


def test_damping_by_the_path_of_the_run() -> None:
    x, y = torch.randn(20, 3), torch.randn(20)
    train = assay.read((x, y))
    recipe = assay.Recipe(nn.Linear(3, 1), Regress(), optimizer="sgd", lr=0.05, epochs=2, batch_size=10, momentum=0.5)
    run = recipe.train(train)
    assert run.model.path == pytest.approx(4 * 0.05 / 0.5)
    for method in (EKFAC(damping="path"), EKFAC(damping=1 / run.model.path)):
        scores = assay.attribute(run.model, train, train[:3], method).array
        np.testing.assert_allclose(
            scores, assay.attribute(run.model, train, train[:3], EKFAC(damping=2.5)).array, rtol=1e-5
        )
    adam = assay.Recipe(nn.Linear(3, 1), Regress(), optimizer="adamw", lr=0.05, epochs=1, batch_size=10).train(train)
    for model in (adam.model, Model(nn.Linear(3, 1), Regress())):
        with pytest.raises(MethodError, match="path"):
            assay.attribute(model, train, train[:3], EKFAC(damping="path"))
