"""GradDot, GradCos and TracIn against closed forms, naive automatic differentiation and real steps of training."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support import batch_of, examples, naive_losses, shaken, text_model
from torch import Tensor, nn

import assay
from assay.examples import Examples
from assay.methods import GradCos, GradDot, SelfInfluence, TracIn
from assay.methods.gradient.base import GradientMethod
from assay.models import Checkpoint, Model
from assay.tasks import Classify, Loss, Regress

SENTENCES = [
    f"the {a} {b} {c}" for a in ("cat", "dog", "big red tree") for b in ("sat on", "saw") for c in ("the mat .", "you")
]
TRAIN = examples(*SENTENCES)
QUERIES = examples("the dog sat under the tree .", "hello who are you", "a big cat ran and saw the red mat")
RATES = (0.5, 0.125)


def flat(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def gradient(module: nn.Module, loss: Tensor) -> Tensor:
    gradients = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)
    return torch.cat([g.flatten() for g in gradients]).double()


# -- closed forms ------------------------------------------------------------------------------------------------------


def test_linear_regression() -> None:
    """score(i, q) = r_i r_q <x_i, x_q>, with a 1 behind each x for the bias."""
    module = shaken(nn.Linear(5, 1).double(), 1.0)
    x, y = torch.randn(40, 5, dtype=torch.float64), torch.randn(40, dtype=torch.float64)
    scores = assay.attribute(Model(module, Regress()), (x, y), (x[:9], y[:9]), GradDot()).array
    residual = module(x).squeeze(1).detach() - y
    ones = torch.cat([x, torch.ones(40, 1, dtype=torch.float64)], 1) * residual[:, None]
    np.testing.assert_allclose(scores, (ones @ ones[:9].T).numpy(), rtol=2e-6, atol=1e-6 * np.abs(scores).max())


# -- naive automatic differentiation -----------------------------------------------------------------------------------


def text_gradients(module: nn.Module, model: Model, rows: Examples, reduction: str) -> Tensor:
    """One backward pass an example, through the model library's own logits."""
    batch = batch_of(model, rows)
    return torch.stack(
        [gradient(module, naive_losses(module, batch.select(k), reduction)[0]) for k in range(len(rows))]
    )


def array_gradients(module: nn.Module, model: Model, rows: Examples, reduction: str) -> Tensor:
    dtype = next(module.parameters()).dtype
    losses = [nn.functional.cross_entropy(module(row.data["x"].to(dtype)), torch.tensor(row.data["y"])) for row in rows]
    return torch.stack([gradient(module, loss) for loss in losses])


def expected(method: GradientMethod, pairs: Sequence[tuple[float, Tensor, Tensor]]) -> Tensor:
    """The formulas, from (rate, gradients of the examples, of the queries) at each checkpoint."""
    if isinstance(method, TracIn):
        return torch.stack([rate * g @ h.T for rate, g, h in pairs]).sum(0)
    _, g, h = pairs[-1]
    if isinstance(method, GradCos):
        g, h = g / g.norm(dim=1, keepdim=True), h / h.norm(dim=1, keepdim=True)
    return g @ h.T


def mlp(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def case(kind: str, dtype: torch.dtype) -> tuple[Model, Examples, Examples]:
    """A model with two checkpoints, the last as it is now; examples; queries."""
    if kind == "llama":
        model = text_model("Llama", dtype=dtype, tie_word_embeddings=True)
        train, queries = TRAIN, QUERIES
    else:
        x, y = torch.randn(30, 6, dtype=torch.float64), torch.randint(0, 3, (30,))
        model = Model(mlp(dtype), Classify())
        train, queries = assay.read((x[:24], y[:24])), assay.read((x[24:], y[24:]))
    now = {name: t.clone() for name, t in model.module.state_dict().items()}
    noise = torch.Generator().manual_seed(3)
    before = {
        name: t + 0.1 * torch.randn(t.shape, generator=noise, dtype=torch.float64).to(dtype) for name, t in now.items()
    }
    if "lm_head.weight" in before:
        before["lm_head.weight"] = before["model.embed_tokens.weight"]
    stages = zip(("early", "late"), RATES, (before, now), strict=True)
    kept = [Checkpoint.of_state(name, rate, model.module, state) for name, rate, state in stages]
    return Model(model.module, model.task, checkpoints=kept), train, queries


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
@pytest.mark.parametrize("kind", ["llama", "mlp"])
def test_naive_gradients(kind: str, dtype: torch.dtype, tolerance: float, indexed: bool, tmp_path: Path) -> None:
    """Exact, and through an index whose compression is as wide as the layers, which keeps all."""
    model, train, queries = case(kind, dtype)
    gradients = text_gradients if kind == "llama" else array_gradients
    pairs: list[tuple[float, Tensor, Tensor]] = []
    for stage in model.stages():
        module = stage.load()
        g, h = gradients(module, model, train, "sum"), gradients(module, model, queries, "mean")
        pairs.append((stage.rate, g, h))
    for method in (GradDot(), GradCos(), TracIn()):
        if indexed:
            built = assay.build(model, train, tmp_path / method.name, method=method, compression="factored:64")
            assert built.index.dim == sum(p.numel() for p in model.module.parameters())
            scores = built.score(queries)
        else:
            scores = assay.attribute(model, train, queries, method)
        right = expected(method, pairs)
        error = (torch.from_numpy(scores.array).double() - right).abs().max() / right.abs().max()
        assert float(error) < tolerance, method.name


def test_reductions_of_the_losses_are_as_asked() -> None:
    model, train, queries = case("llama", torch.float64)
    g, h = (text_gradients(model.module, model, rows, way) for rows, way in ((train, "mean"), (queries, "sum")))
    scores = assay.attribute(model, train, queries, GradDot(train_loss="mean", query_loss="sum")).array
    np.testing.assert_allclose(scores, (g @ h.T).numpy(), atol=1e-6 * np.abs(scores).max())


@pytest.mark.parametrize("compression", ["none", "factored:64"])
def test_self_influence_is_the_diagonal(compression: str) -> None:
    model, train, _ = case("llama", torch.float64)
    matrix = assay.attribute(model, train, train, TracIn(query_loss="sum")).array
    values = assay.value(model, train, method=SelfInfluence(compression=compression))
    np.testing.assert_allclose(-values.array, np.diag(matrix), rtol=1e-5)
    np.testing.assert_array_equal(values.raw["self_influence"], -values.array)
    plain = Model(model.module, model.task)
    matrix = assay.attribute(plain, train, train, GradDot(query_loss="sum")).array
    np.testing.assert_allclose(-assay.value(plain, train).array, np.diag(matrix), rtol=1e-5)


# -- real steps --------------------------------------------------------------------------------------------------------


def test_the_sign_of_one_step() -> None:
    """A step of SGD on i at rate 1e-4 moves the loss of q as the sign of the score says, for more than 99% of pairs."""
    model, train, _queries = case("mlp", torch.float64)
    scores = assay.attribute(model, train, train, GradDot()).array
    module = model.module
    batch = batch_of(model, train)
    with torch.no_grad():
        before = model.task.measure(module, batch, Loss())
    right = []
    for i, g in enumerate(array_gradients(module, model, train, "sum")):
        moved = mlp(torch.float64)
        nn.utils.vector_to_parameters(flat(module) - 1e-4 * g, moved.parameters())
        with torch.no_grad():
            fall = before - model.task.measure(moved, batch, Loss())
        right.append(np.sign(fall.numpy()) == np.sign(scores[i]))
    assert np.mean(right) > 0.99
    assert 0.2 < (scores > 0).mean() < 0.8  # both signs are at stake


def credited(rate: float) -> tuple[Tensor, Tensor]:
    """Over a run of SGD with batches of 1: for each query the scores of all steps, each of the row that it used, summed;
    and the whole fall of its loss.
    """
    x, y = torch.randn(12, 4, dtype=torch.float64), torch.randint(0, 3, (12,))
    train, queries = assay.read((x[:8], y[:8])), assay.read((x[8:], y[8:]))
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    recipe = assay.Recipe(net, Classify(), optimizer="sgd", lr=rate, epochs=2, batch_size=1, checkpoints=16)
    run, order = recipe.train(train), recipe.order(len(train))
    modules = [recipe.initial(), *(checkpoint.load() for checkpoint in run.checkpoints)]
    total = torch.zeros(len(queries), dtype=torch.float64)
    for step in range(order.total):
        start = Checkpoint(f"before {step}", run.rates[step].item(), lambda step=step: modules[step])
        scores = assay.attribute(Model(net, Classify(), checkpoints=[start]), train, queries, TracIn()).array
        total += torch.from_numpy(scores[int(order.rows(step)[0])]).double()
    batch = batch_of(Model(net, Classify()), queries)
    with torch.no_grad():
        fall = Classify().measure(modules[0], batch, Loss()) - Classify().measure(modules[-1], batch, Loss())
    return total, fall


def test_the_scores_of_a_run_add_up_to_the_fall_of_the_loss() -> None:
    """Up to an error that is proportional to the learning rate."""
    errors: list[float] = []
    for rate in (2e-3, 1e-3):
        torch.manual_seed(0)
        total, fall = credited(rate)
        errors.append(float((total - fall).norm() / fall.norm()))
    assert errors[1] < 0.05
    assert 1.7 < errors[0] / errors[1] < 2.3
