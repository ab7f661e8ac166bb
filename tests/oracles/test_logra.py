"""LoGra against its formula in loops, and against what its projection means."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support import arrays, quadratic, shaken
from torch import Tensor, nn

import assay
from assay.compress import eigenbasis
from assay.compress.factored import FactoredSketch
from assay.errors import MethodError
from assay.gradients.blocks import lay_out
from assay.gradients.functional import dense_gradients
from assay.index import fitted
from assay.index.format import Dtype
from assay.methods import LoGra
from assay.models import Model

N, Q = 40, 5


def problem(positions: int = 3) -> tuple[Model, Tensor, Tensor]:
    """Two layers of unlike scale, one with a bias, at several positions; rows of training examples and queries."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3, bias=False)).double()
    model = Model(shaken(module, 0.4).eval(), quadratic())
    x = torch.randn(N + Q, positions, 5, dtype=torch.float64) * torch.tensor([3.0, 1.0, 1.0, 0.3, 0.1])
    return model, x[:N], x[N:]


def gradients(model: Model, x: Tensor) -> list[Tensor]:
    """By automatic differentiation of each example alone, [n, rows, cols] for each block."""
    batch = model.task.collate([model.task.encode(row) for row in arrays(x)])
    dense = dense_gradients(model, batch)
    return [block.assemble(dense) for block in lay_out(model).blocks]


def bases(model: Model, x: Tensor, rank: int) -> list[tuple[Tensor, Tensor]]:
    """Leading eigenvectors of the covariances of output gradients and inputs, position by position."""
    found: list[tuple[Tensor, Tensor]] = []
    layers = [m for m in model.module if isinstance(m, nn.Linear)]  # type: ignore[union-attr]
    for layer in layers:
        seen: list[tuple[Tensor, Tensor]] = []
        handle = layer.register_forward_hook(partial(_ran, seen))
        for row in arrays(x):
            batch = model.task.collate([model.task.encode(row)])
            model.task.measure(model.module, batch, LoGra().train_measurement()).sum().backward()
        handle.remove()
        A = sum(a[0].T @ a[0] for a, _ in seen)
        S = sum(d.grad[0].T @ d.grad[0] for _, d in seen)  # type: ignore[index]
        B, A = (torch.linalg.eigh(M).eigenvectors.flip(1)[:, :rank] for M in (S, A))
        found.append((B, A))
    model.module.zero_grad()
    return found


def _ran(seen: list[tuple[Tensor, Tensor]], layer: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
    """Note the input, with a 1 for the bias, and the output, whose gradient is kept."""
    x = args[0].detach()
    output.retain_grad()
    seen.append((torch.cat([x, torch.ones_like(x[..., :1])], -1) if layer.bias is not None else x, output))


def naive(train: list[Tensor], queries: list[Tensor], damping: float, relative: bool = False) -> np.ndarray:
    """The formula of the module's docstring, block by block."""
    total, squared = torch.zeros(N, len(queries[0]), dtype=torch.float64), torch.zeros(N, dtype=torch.float64)
    for phi, psi in zip((g.flatten(1) for g in train), (g.flatten(1) for g in queries), strict=True):
        F = sum(torch.outer(row, row) for row in phi) / N
        lam = damping * torch.linalg.eigvalsh(F).mean()
        inverse = torch.linalg.inv(F + lam * torch.eye(len(F)))
        total += phi @ inverse @ psi.T / N
        squared += torch.stack([row @ inverse @ row for row in phi])
    return (total / squared.sqrt()[:, None] if relative else total).numpy()


def close(found: np.ndarray, expected: np.ndarray, tolerance: float = 2e-5) -> None:
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("damping", [0.1, 0.003])
def test_the_formula_without_a_projection(relative: bool, damping: float) -> None:
    """Blocks of 24 and 12 numbers, with 40 rows."""
    model, x, xq = problem()
    scores = assay.attribute(model, arrays(x), arrays(xq), LoGra("none", damping=damping, relative=relative))
    close(scores.array, naive(gradients(model, x), gradients(model, xq), damping, relative))


def test_the_formula_where_rows_are_fewer_than_numbers() -> None:
    """The inverse by its rows: a block of 7 x 31 numbers."""
    torch.manual_seed(1)
    model = Model(nn.Linear(30, 7).double(), quadratic())
    x = torch.randn(N + Q, 2, 30, dtype=torch.float64)
    scores = assay.attribute(model, arrays(x[:N]), arrays(x[N:]), LoGra("none", relative=True))
    close(scores.array, naive(gradients(model, x[:N]), gradients(model, x[N:]), 0.1, relative=True))


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_the_formula_in_the_eigenbasis(rank: int) -> None:
    """A side no longer than the rank is kept: the scores are those of a full rotation."""
    model, x, xq = problem()
    pairs = bases(model, x, rank)
    train, queries = (
        [B.T @ g @ A for g, (B, A) in zip(gradients(model, part), pairs, strict=True)] for part in (x, xq)
    )
    scores = assay.attribute(model, arrays(x), arrays(xq), LoGra(f"eigen:{rank}"))
    close(scores.array, naive(train, queries, 0.1))


def test_square_orthogonal_matrices_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, xq = problem()
    kept = assay.attribute(model, arrays(x), arrays(xq), LoGra("none")).array
    monkeypatch.setattr(eigenbasis, "_long", lambda block, rank: ["left", "right"])
    rotated = assay.attribute(model, arrays(x), arrays(xq), LoGra()).array
    close(rotated, kept)


def test_a_feature_is_the_gradient_of_a_matrix_put_into_the_layer(tmp_path: Path) -> None:
    """`y = W x + B^T M A x` at M = 0."""
    model, x, _ = problem()
    built = assay.build(model, arrays(x), tmp_path / "index", method=LoGra("eigen:2"))
    (tile,) = built.index.tiles(0)
    sketch = fitted.kept(built.index.path, LoGra("eigen:2").compressor(), 0).bind(
        lay_out(model).blocks, torch.device("cpu"), torch.float64
    )
    assert isinstance(sketch, FactoredSketch)
    first = model.module[0]  # type: ignore[index]
    B, A = sketch.lefts[0], sketch.rights[0]
    assert B is not None
    assert A is not None
    M = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)

    def inserted(m: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        return output + torch.cat([args[0], torch.ones_like(args[0][..., :1])], -1) @ A @ M.T @ B.T

    handle = first.register_forward_hook(inserted)
    for k, row in enumerate(arrays(x)):
        batch = model.task.collate([model.task.encode(row)])
        value = model.task.measure(model.module, batch, LoGra().train_measurement()).sum()
        (gradient,) = torch.autograd.grad(value, M)
        torch.testing.assert_close(tile.features[k, :4].double(), gradient.flatten(), rtol=1e-5, atol=1e-6)
    handle.remove()


def test_the_eigenbasis_beats_random_signs_at_the_same_rank() -> None:
    """Nearer to the scores without a projection, where inputs and gradients lie in few directions."""
    torch.manual_seed(0)
    model = Model(shaken(nn.Sequential(nn.Linear(30, 12), nn.Tanh(), nn.Linear(12, 20)), 0.3).double(), quadratic())
    x = torch.randn(N + Q, 4, 4, dtype=torch.float64) @ torch.randn(4, 30, dtype=torch.float64)
    x += 0.05 * torch.randn(N + Q, 4, 30, dtype=torch.float64)
    train, queries = arrays(x[:N]), arrays(x[N:])
    exact, eigen, signs = (
        assay.attribute(model, train, queries, LoGra(c)).array.ravel() for c in ("none", "eigen:4", "factored:4")
    )
    assert np.corrcoef(exact, eigen)[0, 1] > np.corrcoef(exact, signs)[0, 1] + 0.05


def test_asking_again_changes_nothing(tmp_path: Path) -> None:
    """Damping is not added in place."""
    model, x, xq = problem()
    built = assay.build(model, arrays(x), tmp_path / "index", method=LoGra("eigen:2", relative=True))
    one = built.score(arrays(xq)).array
    for _ in range(3):
        np.testing.assert_array_equal(built.score(arrays(xq)).array, one)
    np.testing.assert_array_equal(assay.open(tmp_path / "index", model).attribute(arrays(xq)).array, one)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_short_numbers_in_the_index(dtype: Dtype, tmp_path: Path) -> None:
    model, x, xq = problem()
    whole, short = (
        assay.build(model, arrays(x), tmp_path / kind, method=LoGra("eigen:2"), dtype=kind).score(arrays(xq)).array
        for kind in ("float32", dtype)
    )
    assert np.corrcoef(whole.ravel(), short.ravel())[0, 1] > 0.99


def test_what_it_cannot_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from assay.curvature import blockwise

    with pytest.raises(MethodError, match="damping=0"):
        LoGra(damping=0.0)
    model, x, xq = problem()
    monkeypatch.setattr(blockwise, "MOST_NUMBERS", 500)
    with pytest.raises(MethodError, match="the largest of 24 numbers a feature"):
        assay.attribute(model, arrays(x), arrays(xq), LoGra("none"))
