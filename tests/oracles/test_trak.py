"""TRAK against exact leave-one-out of a logistic regression, a naive transcription, and its own invariance."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support import shaken
from torch import Tensor, nn

import assay
from assay.errors import MethodError
from assay.examples import Examples
from assay.index.format import Dtype
from assay.methods import TRAK
from assay.models import Checkpoint, Model
from assay.tasks import Classify

N, D, DECAY = 300, 6, 1.0
EXACT = TRAK(compression="none", damping=0.0)


class Logistic(nn.Module):
    """Logits (0, <w, x>), so that the margin's gradient is x or -x."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x: Tensor) -> Tensor:
        z = x @ self.w
        return torch.stack([torch.zeros_like(z), z], 1)


def fitted(x: Tensor, y: Tensor) -> Tensor:
    """Newton's method to the minimum of the loss plus DECAY/2 |w|^2."""
    w = torch.zeros(x.shape[1], dtype=x.dtype)
    for _ in range(12):
        p = (x @ w).sigmoid()
        hessian = (x.T * (p * (1 - p))) @ x + DECAY * torch.eye(len(w), dtype=x.dtype)
        w = w - torch.linalg.solve(hessian, x.T @ (p - y) + DECAY * w)
    return w


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """300 examples and 40 queries of a logistic model of six features."""
    seed = torch.Generator().manual_seed(0)
    truth = 0.5 * torch.randn(D, generator=seed, dtype=torch.float64)
    x = torch.randn(N + 40, D, generator=seed, dtype=torch.float64)
    y = (torch.rand(N + 40, generator=seed, dtype=torch.float64) < (x @ truth).sigmoid()).double()
    return x[:N], y[:N], x[N:], y[N:]


def read(x: Tensor, y: Tensor) -> Examples:
    return assay.read((x, y.long()))


def correlation_and_slope(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Of all pairs; the slope is of truth on scores, through the origin."""
    slope = (scores * truth).sum() / (scores * scores).sum()
    return float(np.corrcoef(scores.ravel(), truth.ravel())[0, 1]), float(slope)


def test_leave_one_out_of_a_logistic_regression() -> None:
    """The change of a query's margin when one example leaves, by fitting again without it."""
    x, y, xq, yq = problem()
    w = fitted(x, y)
    rest = ~torch.eye(N, dtype=torch.bool)
    without = torch.stack([fitted(x[keep], y[keep]) for keep in rest])
    truth = ((w - without) @ xq.T * (2 * yq - 1)).numpy()

    model, train, queries = Model(Logistic(w), Classify()), read(x, y), read(xq, yq)
    scores = assay.attribute(model, train, queries, EXACT).array.astype(float)
    miss = (y - (x @ w).sigmoid()).abs()[:, None].numpy()
    r, slope = correlation_and_slope(scores, truth)
    bare, _ = correlation_and_slope(scores / miss, truth)
    assert r == pytest.approx(0.97, abs=0.01)
    assert bare == pytest.approx(0.76, abs=0.01)
    assert slope == pytest.approx(6.8, abs=0.3)

    scores = assay.attribute(model, train, queries, TRAK(compression="none", damping=DECAY, newton=True)).array
    r, slope = correlation_and_slope(scores.astype(float), truth)
    assert r > 0.999
    assert slope == pytest.approx(1.04, abs=0.01)
    p = (x @ w).sigmoid()
    hessian = (x.T * (p * (1 - p))) @ x + DECAY * torch.eye(D, dtype=x.dtype)
    leverage = (((x @ torch.linalg.inv(hessian)) * x).sum(1) * p * (1 - p))[:, None].numpy()
    _, slope = correlation_and_slope(scores / (1 - leverage), truth)
    assert slope == pytest.approx(1.007, abs=0.005)


def test_invertible_maps_of_the_features_change_nothing() -> None:
    """The same model in other coordinates, x A and A^-1 w, has features A^T phi: at no damping the same scores."""
    x, y, xq, yq = problem()
    w = fitted(x, y)
    A = torch.eye(D, dtype=x.dtype) + 0.5 * torch.randn(D, D, dtype=x.dtype)
    A[:, 0] *= 1e3
    one, other = (
        assay.attribute(Model(Logistic(v), Classify()), read(x @ B, y), read(xq @ B, yq), EXACT).array
        for v, B in ((w, torch.eye(D, dtype=x.dtype)), (torch.linalg.solve(A, w), A))
    )
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5 * np.abs(one).max())


def ensemble() -> tuple[Model, Tensor, Tensor]:
    """Three unlike models of one architecture as checkpoints; inputs; labels."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    kept: list[Checkpoint] = []
    for number, by in enumerate((0.3, 0.6, 1.2)):
        shaken(net, by)
        state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        kept.append(Checkpoint.of_state(f"model {number}", 0.1, net, state))
    x, y = torch.randn(50, 4, dtype=torch.float64), torch.randint(0, 3, (50,))
    return Model(net, Classify(), checkpoints=kept), x, y


def naive(model: Model, x: Tensor, y: Tensor, n: int, damping: float, newton: bool) -> np.ndarray:
    """The formula of the module's docstring in loops, in float64."""
    misses, products = [], []
    for stage in model.stages():
        module = stage.load()
        gradients, p = [], []
        for row, target in zip(x, y, strict=True):
            logits = module(row)
            others = torch.cat([logits[:target], logits[target + 1 :]])
            margin = logits[target] - others.logsumexp(0)
            gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(margin, list(module.parameters()))]))
            p.append(margin.sigmoid().detach())
        phi, miss = torch.stack(gradients), 1 - torch.stack(p)
        weight = miss[:n] * (1 - miss[:n]) if newton else torch.ones(n, dtype=x.dtype)
        gram = sum(weight[i] * torch.outer(phi[i], phi[i]) for i in range(n))
        inverse = torch.linalg.inv(gram + damping * torch.eye(phi.shape[1], dtype=x.dtype))
        products.append(phi[:n] @ inverse @ phi[n:].T)
        misses.append(miss[:n])
    return (torch.stack(misses).mean(0)[:, None] * torch.stack(products).mean(0)).numpy()


@pytest.mark.parametrize("newton", [False, True])
def test_an_ensemble_takes_two_means_apart(newton: bool) -> None:
    model, x, y = ensemble()
    train, queries = read(x[:40], y[:40]), read(x[40:], y[40:])
    method = TRAK(compression="none", damping=0.3, newton=newton)
    scores = assay.attribute(model, train, queries, method).array
    right = naive(model, x, y, 40, 0.3, newton)
    np.testing.assert_allclose(scores, right, atol=1e-5 * np.abs(right).max())
    singles = [
        assay.attribute(Model(model.module, model.task, checkpoints=[stage]), train, queries, method).array
        for stage in model.stages()
    ]
    assert (
        np.abs(np.mean(singles, axis=0) - right).max() > 0.05 * np.abs(right).max()
    )  # the mean of products is another


def test_it_is_damped_by_the_mean_diagonal_of_the_gram_matrix() -> None:
    x, y, xq, yq = problem()
    model, train, queries = Model(Logistic(fitted(x, y)), Classify()), read(x, y), read(xq, yq)
    found = assay.attribute(model, train, queries, replace(EXACT, damping=None)).array
    phi = np.asarray(x, dtype=np.float64)  # the gradient of the margin is the features
    given = assay.attribute(model, train, queries, replace(EXACT, damping=float(np.square(phi).sum() / phi.shape[1])))
    np.testing.assert_allclose(found, given.array, atol=1e-6 * np.abs(found).max(), rtol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.3, 0.7])
def test_a_singular_gram_matrix_is_refused_where_damping_is_set_and_damped_where_it_is_not(share: float) -> None:
    """A feature that follows from two others, exactly or up to the rounding of float32."""
    x, y, xq, yq = problem()
    for z in (x, xq):
        z[:, 1] = share * z[:, 0] - 2 * z[:, 2]
    model, train, queries = Model(Logistic(fitted(x, y)), Classify()), read(x, y), read(xq, yq)
    with pytest.raises(
        MethodError, match=r"300 examples in 6 dimensions is singular. Give damping \(for example [\d.e+]+\)"
    ):
        assay.attribute(model, train, queries, EXACT)
    assert np.isfinite(assay.attribute(model, train, queries, replace(EXACT, damping=None)).array).all()
    scores = assay.attribute(model, train, queries, replace(EXACT, damping=0.5)).array  # a thousandth of the diagonal
    rest = [0, 2, 3, 4, 5]
    small = Model(Logistic(fitted(x[:, rest], y)), Classify())
    right = assay.attribute(small, read(x[:, rest], y), read(xq[:, rest], yq), EXACT).array
    assert np.corrcoef(scores.ravel(), right.ravel())[0, 1] > 0.99


def test_more_dimensions_than_examples_are_damped() -> None:
    model, x, y = ensemble()
    train, queries = read(x[:20], y[:20]), read(x[40:], y[40:])
    assert np.isfinite(assay.attribute(model, train, queries, TRAK()).array).all()
    with pytest.raises(MethodError, match="20 examples in 2048 dimensions is singular"):
        assay.attribute(model, train, queries, TRAK(damping=0.0))


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 0.99), ("int8", 0.99)])
def test_short_numbers_in_the_index(dtype: Dtype, bound: float, tmp_path: Path) -> None:
    model, x, y = ensemble()
    train, queries = read(x[:40], y[:40]), read(x[40:], y[40:])
    method = TRAK(compression="sjlt:16", damping=0.3)
    whole, short = (
        assay.build(model, train, tmp_path / kind, method=method, dtype=kind).score(queries).array
        for kind in ("float32", dtype)
    )
    np.testing.assert_allclose(whole, assay.attribute(model, train, queries, method).array)
    assert np.corrcoef(whole.ravel(), short.ravel())[0, 1] > bound


def test_a_matrix_too_large_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    from assay.methods.gradient import trak

    monkeypatch.setattr(trak, "MOST_DIMENSIONS", 32)
    model, x, y = ensemble()
    with pytest.raises(MethodError, match="at most 32 were expected"):
        assay.attribute(model, read(x, y), read(x, y), TRAK(compression="none"))
