"""TrackStar against its formula in loops, its limits, and the side that its mixing weight is on."""

import numpy as np
import pytest
import torch
from tests.support import arrays, quadratic, shaken
from torch import Tensor, nn

import assay
from assay.curvature.whitening import Whitening
from assay.errors import MethodError
from assay.gradients.blocks import lay_out
from assay.gradients.functional import dense_gradients
from assay.methods import TrackStar
from assay.methods.gradient import trackstar
from assay.models import Checkpoint, Model
from assay.moments import AdamMoments

N, Q = 50, 7


def model_of(second: float | None = None, module: nn.Module | None = None) -> Model:
    """With Adam's second moment at its only checkpoint (drawn, or constant), or without checkpoints."""
    torch.manual_seed(0)
    net = shaken(module or nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), 0.4).double().eval()
    if second is None:
        return Model(net, quadratic())
    sizes = {name: p.detach() for name, p in net.named_parameters()}
    v = {name: second * (1 + torch.rand_like(p) if second < 1 else torch.ones_like(p)) for name, p in sizes.items()}
    moments = AdamMoments({name: torch.zeros_like(p) for name, p in sizes.items()}, v, 10)
    return Model(net, quadratic(), checkpoints=[Checkpoint("end", 0.1, lambda: net, lambda: moments)])


def inputs() -> tuple[Tensor, Tensor]:
    x = torch.randn(N + Q, 4, dtype=torch.float64) * torch.tensor([2.0, 1.0, 0.5, 0.2])
    return x[:N], x[N:]


def gradients(model: Model, x: Tensor) -> list[Tensor]:
    batch = model.task.collate([model.task.encode(row) for row in arrays(x)])
    dense = dense_gradients(model, batch)
    return [block.assemble(dense) for block in lay_out(model).blocks]


def second_moment(model: Model, train: list[Tensor]) -> list[Tensor]:
    """V of each block, up to a factor common to all."""
    if not model.checkpoints:
        return [g.square().mean(0) for g in train]
    (stage,) = model.checkpoints
    assert stage.moments is not None
    v = stage.moments().second
    return [b.assemble({n: v[n][None] for n in b.parameters})[0] for b in lay_out(model).blocks]


def naive(model: Model, x: Tensor, xq: Tensor, mix: float, damping: float, root: str) -> np.ndarray:
    """Whitened rows of both sides, then cosines."""
    train, queries = gradients(model, x), gradients(model, xq)
    V = second_moment(model, train)
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    for g, h, v in zip(train, queries, V, strict=True):
        scale = (v + 1e-6 * v.mean()).rsqrt()
        u, w = (g * scale).flatten(1), (h * scale).flatten(1)
        R = mix * sum(torch.outer(r, r) for r in w) / Q + (1 - mix) * sum(torch.outer(r, r) for r in u) / N
        lam = damping * torch.linalg.eigvalsh(R).mean()
        whiten = getattr(Whitening, root)(R, float(lam))
        sides[0].append(whiten(u))
        sides[1].append(whiten(w))
    phi, psi = (torch.cat(side, 1) for side in sides)
    return (phi / phi.norm(dim=1, keepdim=True) @ (psi / psi.norm(dim=1, keepdim=True)).T).numpy()


@pytest.mark.parametrize("second", [None, 0.3])
@pytest.mark.parametrize("root", ["symmetric", "triangular"])
@pytest.mark.parametrize(("mix", "damping"), [(0.0, 0.01), (0.6, 0.01), (0.9, 0.3)])
def test_the_formula(second: float | None, root: str, mix: float, damping: float) -> None:
    """Either root gives the cosines; V of Adam, or of the training examples."""
    model, (x, xq) = model_of(second), inputs()
    scores = assay.attribute(model, arrays(x), arrays(xq), TrackStar(mix=mix, damping=damping))
    np.testing.assert_allclose(scores.array, naive(model, x, xq, mix, damping, root), atol=2e-5)
    of = "Adam's second moment after 10 steps" if second else "the mean squared gradient of 50 training examples"
    assert scores.provenance.notes[0] == f"Gradients were scaled by {of}."


def test_with_equal_scales_and_no_whitening_it_is_gradcos() -> None:
    """V = 1; damping that outweighs R makes it a multiple of the identity, here of the only block."""
    model, (x, xq) = model_of(1.0, nn.Linear(4, 3)), inputs()
    scores = assay.attribute(model, arrays(x), arrays(xq), TrackStar(damping=1e9))
    cosines = assay.attribute(model, arrays(x), arrays(xq), "gradcos")
    np.testing.assert_allclose(scores.array, cosines.array, atol=1e-5)
    assert np.abs(assay.attribute(model, arrays(x), arrays(xq), "trackstar").array - cosines.array).max() > 0.1


def test_a_direction_that_all_queries_share_loses_weight_as_the_mixing_weight_rises() -> None:
    """Which side `a` weighs is a reconstruction: were it the training side, the template would win."""
    torch.manual_seed(0)
    model = Model(nn.Linear(6, 1, bias=False).double(), quadratic())
    x, xq = torch.randn(200, 6, dtype=torch.float64), torch.randn(Q, 6, dtype=torch.float64)
    template = torch.eye(6, dtype=torch.float64)[0]
    xq[:, 0] = 8.0  # in every query
    x[0] = template
    weights = [
        float(np.abs(assay.attribute(model, arrays(x), arrays(xq), TrackStar(mix=mix)).array[0]).mean())
        for mix in (0.0, 0.5, 0.9, 0.99)
    ]
    assert weights == sorted(weights, reverse=True)
    assert weights[-1] < 0.5 * weights[0]


def test_the_mixing_weight_is_where_the_eigenvalues_cross(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it the training side outweighs: `a s_query[k] = (1 - a) s_train[k]`."""
    monkeypatch.setattr(trackstar, "SHARED", 3 / 43)  # the third of 25 + 18
    model, (x, xq) = model_of(), inputs()
    train, queries = gradients(model, x), gradients(model, xq)
    pooled: list[Tensor] = []
    for side, n in ((train, N), (queries, Q)):
        parts: list[Tensor] = []
        for g, h in zip(side, train, strict=True):
            v = h.square().sum(0)  # as summed, not averaged: the factor is common to both sides
            u = (g * (v + 1e-6 * v.mean()).rsqrt()).flatten(1)
            parts.append(torch.linalg.eigvalsh(u.T @ u / n))
        pooled.append(torch.cat(parts).sort(descending=True)[0])
    a = float(pooled[0][2] / (pooled[0][2] + pooled[1][2]))
    assert 0.05 < a < 0.95
    scores = assay.attribute(model, arrays(x), arrays(xq), "trackstar")
    (told,) = [note for note in scores.provenance.notes if "weight" in note]
    assert float(told.split("the weight ")[1].split(" ")[0]) == pytest.approx(a, rel=5e-3)
    given = assay.attribute(model, arrays(x), arrays(xq), TrackStar(mix=a))
    np.testing.assert_allclose(scores.array, given.array, atol=1e-5)


def test_what_it_cannot_take_is_refused() -> None:
    with pytest.raises(MethodError, match=r"mix=1\.5"):
        TrackStar(mix=1.5)
    with pytest.raises(MethodError, match="damping=0"):
        TrackStar(damping=0.0)
