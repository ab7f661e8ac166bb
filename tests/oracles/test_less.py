"""LESS against the very step of `torch.optim.Adam`, its formula in loops, and its limit."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import arrays, batch_of, examples, quadratic, shaken, text_model
from torch import Tensor, nn

import assay
from assay.compress import Identity
from assay.compress.elementwise import Stepped
from assay.errors import MethodError
from assay.gradients.blocks import lay_out
from assay.gradients.capture import capturing
from assay.gradients.functional import dense_gradients
from assay.gradients.sketch import Evidence
from assay.methods import LESS
from assay.models import Checkpoint, Model
from assay.moments import AdamMoments
from assay.tasks import Loss

N, Q = 20, 4
BETAS, EPS = (0.8, 0.95), 1e-3
TEXTS = examples("the cat sat on the mat", "hello who are you", "a big red dog ran under the tree and saw the cat")


def moments_of(module: nn.Module, step: int = 6, seed: int = 3) -> AdamMoments:
    """Drawn, with squares of the size of gradients."""
    draw = torch.Generator().manual_seed(seed)
    sizes = {name: p.shape for name, p in module.named_parameters() if p.requires_grad}
    first = {name: torch.randn(size, generator=draw).double() for name, size in sizes.items()}
    second = {name: torch.rand(size, generator=draw).double() for name, size in sizes.items()}
    return AdamMoments(first, second, step, BETAS, EPS)


def true_step(module: nn.Module, moments: AdamMoments, gradients: dict[str, Tensor], rate: float) -> dict[str, Tensor]:
    """`-(change) / rate` of one step of `torch.optim.AdamW` from the loaded state."""
    params = {name: nn.Parameter(p.detach().clone()) for name, p in module.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(params.values(), lr=rate, betas=moments.betas, eps=moments.eps, weight_decay=0.0)
    state = optimizer.state_dict()
    state["state"] = {
        k: {
            "step": torch.tensor(float(moments.step)),
            "exp_avg": moments.first[name].clone(),
            "exp_avg_sq": moments.second[name].clone(),
        }
        for k, name in enumerate(params)
    }
    optimizer.load_state_dict(state)
    before = {name: p.detach().clone() for name, p in params.items()}
    for name, p in params.items():
        p.grad = gradients[name].clone()
    optimizer.step()
    return {name: (before[name] - p.detach()) / rate for name, p in params.items()}


class Routed(nn.Module):
    """One of two layers runs, by the sign of an input; a weight that never runs; a layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.idle = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(2, 2)
        self.twice = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        chosen = self.one if bool(x[0, 0] > 0) else self.two
        return self.twice(self.twice(chosen(x)).tanh())


def models() -> list[Any]:
    torch.manual_seed(0)
    stack = Model(shaken(nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3))).double().eval(), quadratic())
    routed = Model(shaken(Routed()).double().eval(), quadratic())
    x = torch.randn(6, 4, dtype=torch.float64)
    x[:, 0] = x[:, 0].abs()
    tied = text_model("Llama", tie_word_embeddings=True, num_hidden_layers=1)
    return [(stack, arrays(x)), (routed, arrays(x)), (tied, TEXTS)]


@pytest.mark.parametrize("which", [0, 1, 2], ids=["stack", "routed", "tied"])
def test_a_feature_is_adams_step(which: int) -> None:
    """Exactly, to rounding in float64; also for parameters without a gradient, which momentum moves on."""
    model, rows = models()[which]
    moments = moments_of(model.module)
    batch, layout = batch_of(model, rows), lay_out(model)
    compression = Stepped(base=Identity()).fit(Evidence(model, rows, Loss(), layout, lambda: moments))
    with capturing(model, compression, layout) as capture:
        features, _ = capture(batch, Loss())
    dense = dense_gradients(model, batch)
    for b in range(len(batch)):
        step = true_step(model.module, moments, {name: g[b] for name, g in dense.items()}, 0.01)
        parts = [k.assemble({name: part[None] for name, part in step.items()})[0].flatten() for k in layout.blocks]
        torch.testing.assert_close(features[b], torch.cat(parts), rtol=1e-9, atol=1e-9)


def problem() -> tuple[Model, Tensor, Tensor]:
    """Three checkpoints with their moments and rates."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    kept: list[Checkpoint] = []
    for k, rate in enumerate((0.3, 0.2, 0.1)):
        shaken(net, 0.3 * (k + 1))
        state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        kept.append(Checkpoint.of_state(f"epoch {k}", rate, net, state, partial(moments_of, net, 5 * k + 2, k)))
    x = torch.randn(N + Q, 4, dtype=torch.float64)
    return Model(net, quadratic(), checkpoints=kept), x[:N], x[N:]


def naive(model: Model, x: Tensor, xq: Tensor, published: bool) -> np.ndarray:
    """The sum over checkpoints of cosines, with every formula written out."""
    total = torch.zeros(N, Q, dtype=torch.float64)
    for stage in model.checkpoints:
        at = model.at(stage)
        assert stage.moments is not None
        s = stage.moments()
        b1, b2, t = *s.betas, s.step + 1
        rows: list[Tensor] = []
        for part, is_train in ((x, True), (xq, False)):
            dense = dense_gradients(at, batch_of(at, arrays(part)))
            for i in range(len(part)):
                pieces: list[Tensor] = []
                for name, g in dense.items():
                    m, v = b1 * s.first[name] + (1 - b1) * g[i], b2 * s.second[name] + (1 - b2) * g[i] ** 2
                    gamma = (
                        m / (v + s.eps).sqrt() if published else (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + s.eps)
                    )
                    pieces.append((gamma if is_train else g[i]).flatten())
                rows.append(torch.cat(pieces) / torch.cat(pieces).norm())
        total += stage.rate / 0.6 * torch.stack(rows[:N]) @ torch.stack(rows[N:]).T
    return total.numpy()


@pytest.mark.parametrize("published", [False, True])
def test_the_formula(published: bool) -> None:
    model, x, xq = problem()
    scores = assay.attribute(model, arrays(x), arrays(xq), LESS(compression="none", published=published))
    np.testing.assert_allclose(scores.array, naive(model, x, xq, published), atol=1e-6)


def test_a_projection_keeps_cosines_up_to_its_error() -> None:
    """Within five of the stated standard deviations, sqrt(2 / 8192) at each of three checkpoints."""
    model, x, xq = problem()
    scores = assay.attribute(model, arrays(x), arrays(xq), LESS())
    np.testing.assert_allclose(scores.array, naive(model, x, xq, False), atol=5 * (2 / 8192 / 3) ** 0.5)


def test_without_memory_it_is_gradcos() -> None:
    """m = 0, b1 = 0, and v so large that no gradient moves it."""
    model, x, xq = problem()
    ones = {name: torch.ones_like(p.detach()) for name, p in model.module.named_parameters()}
    still = AdamMoments({n: 0 * p for n, p in ones.items()}, {n: 1e12 * p for n, p in ones.items()}, 4, (0.0, 0.999))
    stage = Checkpoint("end", 0.1, lambda: model.module, lambda: still)
    model = Model(model.module, model.task, checkpoints=[stage])
    scores = assay.attribute(model, arrays(x), arrays(xq), LESS(compression="none"))
    np.testing.assert_allclose(scores.array, assay.attribute(model, arrays(x), arrays(xq), "gradcos").array, atol=1e-5)


def test_a_recipe_is_trained_and_its_rates_are_means() -> None:
    """Of the steps since the checkpoint before, under a schedule."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    recipe = assay.Recipe(
        net, quadratic(), optimizer="adam", lr=0.02, epochs=3, batch_size=6, checkpoints=3, schedule="linear"
    )
    x = torch.randn(N + Q, 4, dtype=torch.float64)
    train, queries = arrays(x[:N]), arrays(x[N:])
    run = recipe.train(train)
    means = [float(part.mean()) for part in run.rates.split(4)]
    stages = [
        Checkpoint(stage.name, rate, stage.load, stage.moments)
        for stage, rate in zip(run.checkpoints, means, strict=True)
    ]
    by_hand = Model(run.model.module, run.model.task, checkpoints=stages)
    expected = assay.attribute(by_hand, train, queries, "less").array
    np.testing.assert_array_equal(assay.attribute(run, train, queries, "less").array, expected)
    np.testing.assert_array_equal(assay.attribute(recipe, train, queries, "less").array, expected)
    assert np.abs(assay.attribute(run.model, train, queries, "less").array - expected).max() > 1e-5


def test_how_alike_the_rows_are_is_told() -> None:
    model, x, xq = problem()
    (note,) = assay.attribute(model, arrays(x), arrays(xq), LESS(compression="none")).provenance.notes
    means: list[str] = []
    for stage in model.checkpoints:
        at = model.at(stage)
        compression = Stepped(base=Identity()).fit(Evidence(at, arrays(x), Loss(), lay_out(at), stage.moments))
        with capturing(at, compression) as capture:
            phi = torch.nn.functional.normalize(capture(batch_of(at, arrays(x)), Loss())[0])
        means.append(f"{float((phi @ phi.T)[~torch.eye(N, dtype=torch.bool)].mean()):.2f}")
    assert note.startswith(f"Mean cosine between two training examples, by checkpoint: {', '.join(means)} ")


def test_what_it_cannot_take_is_refused() -> None:
    model, x, xq = problem()
    bare = Model(model.module, model.task)
    with pytest.raises(MethodError, match="model has none"):
        assay.attribute(bare, arrays(x), arrays(xq), "less")
    stage = Checkpoint("end", 0.1, lambda: model.module)
    with pytest.raises(MethodError, match=r"unknown at: end\. Give assay\.Recipe"):
        assay.attribute(Model(model.module, model.task, checkpoints=[stage]), arrays(x), arrays(xq), "less")
