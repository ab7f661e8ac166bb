"""Products with given gradients: every way gives the same numbers, and low rank is as near as it was asked to be."""

import pytest
import torch
from tests.support import TEXTS, array_model, arrays, batch_of, examples, text_model
from torch import Tensor, nn

from assay.compress import Identity
from assay.compress.against import Against, AgainstSketch, Plain
from assay.compress.lowrank import low_rank
from assay.gradients.blocks import Block
from assay.gradients.capture import capturing
from assay.gradients.rules import OneHot
from assay.gradients.sketch import sum_outer
from assay.models import Model
from assay.tasks import Loss, head

BLOCK = Block("layer", 6, 5, ("layer.weight",))


def sketch(queries: Tensor, squares: bool = False, error: float = 0.0) -> AgainstSketch:
    against = Against(psi=queries.flatten(1), squares=squares, low_rank=error)
    return against.bind([BLOCK], torch.device("cpu"), torch.float64)


def dense(side: Tensor | OneHot) -> Tensor:
    if isinstance(side, Tensor):
        return side
    return nn.functional.one_hot(side.index.clamp(min=0), side.size).double() * (side.index >= 0)[..., None]


SIDES = {
    "dense": lambda time: (torch.randn(3, time, 6).double(), torch.randn(3, time, 5).double()),
    "one-hot left": lambda time: (OneHot(torch.randint(-1, 6, (3, time)), 6), torch.randn(3, time, 5).double()),
    "one-hot right": lambda time: (torch.randn(3, time, 6).double(), OneHot(torch.randint(-1, 5, (3, time)), 5)),
}


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("time", [1, 2, 40])
@pytest.mark.parametrize("queries", [0, 1, 4])
@pytest.mark.parametrize("squares", [False, True])
@pytest.mark.parametrize("rank", [None, 2])
def test_ghost_products_are_those_with_the_formed_gradient(
    sides: str, time: int, queries: int, squares: bool, rank: int | None
) -> None:
    left, right = SIDES[sides](time)
    V = torch.randn(queries, 6, 5, dtype=torch.float64)
    if rank is not None:
        V = torch.randn(queries, 6, rank, dtype=torch.float64) @ torch.randn(queries, rank, 5, dtype=torch.float64)
    made = sketch(V, squares, 0.0 if rank is None else 1e-9)
    G = dense(left).transpose(1, 2) @ dense(right)
    expected = torch.einsum("bij,qij->bq", G, V)
    if squares:
        expected = torch.cat([expected, G.square().sum((1, 2))[:, None]], 1)
    products = made.queries[0].ghost(left, right, torch.float64)
    torch.testing.assert_close(products, expected[:, :queries], rtol=1e-10, atol=1e-7)
    torch.testing.assert_close(made.emit(0, sum_outer(left, right, torch.float64)), expected, rtol=1e-10, atol=1e-7)
    chosen = made.pair(0, left, right, torch.float64)
    if chosen is not None:
        torch.testing.assert_close(chosen, expected, rtol=1e-10, atol=1e-7)


def test_the_way_with_fewer_operations_is_taken() -> None:
    one, many = SIDES["dense"](1), SIDES["dense"](40)
    V = torch.randn(4, 6, 5, dtype=torch.float64)
    assert sketch(V).pair(0, *one, torch.float64) is not None  # Q products of vectors, against forming G as well
    assert sketch(V).pair(0, *many, torch.float64) is None
    assert (
        sketch(V[:1]).pair(0, *many, torch.float64) is not None
    )  # one query: V a_t is cheaper than d_t a_t^T and a product
    thin = torch.randn(1, 6, 1, dtype=torch.float64) @ torch.randn(1, 1, 5, dtype=torch.float64)
    assert sketch(thin, error=1e-9).pair(0, *many, torch.float64) is not None
    assert sketch(thin, True, 1e-9).pair(0, *many, torch.float64) is None  # the length costs time^2


@pytest.mark.parametrize("error", [0.5, 0.1, 0.01, 1e-6])
@pytest.mark.parametrize("shape", [(6, 5), (150, 90), (90, 300)])
def test_low_rank_is_as_near_as_asked_with_few_directions(shape: tuple[int, int], error: float) -> None:
    V = torch.randn(shape) @ torch.diag(0.9 ** torch.arange(shape[1])) @ torch.randn(shape[1], shape[1])
    left, right = low_rank(V, error, torch.Generator().manual_seed(0))
    assert float((V - left @ right).norm()) <= error * float(V.norm()) + 1e-6 * float(V.norm())
    s = torch.linalg.svdvals(V.double())
    least = int((s.square().flip(0).cumsum(0).flip(0) > (error * s.norm()) ** 2).sum())
    assert least <= left.shape[1] <= 1.3 * least + 2


def test_full_rank_is_exact() -> None:
    V = torch.randn(70, 66, dtype=torch.float64)
    left, right = low_rank(V, 0.0, torch.Generator())
    torch.testing.assert_close(left @ right, V, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("error", [0.3, 0.05])
@pytest.mark.parametrize("tied", [True, False])
def test_the_error_of_a_score_is_bounded(error: float, tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """|<G, V> - <G, L R>| <= error |G| |V|, summed over blocks; through the whole model, its chunked head included."""
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 90)
    model = text_model("Llama", tie_word_embeddings=tied, num_hidden_layers=1)
    batch = batch_of(model, examples(*TEXTS))
    with capturing(model, Identity()) as capture:
        whole, _ = capture(batch, Loss())
        slots = capture.sketch.slots
    psi = whole[:2].clone()
    with capturing(model, Against(psi=psi)) as capture:
        exact, _ = capture(batch, Loss())
    torch.testing.assert_close(exact, whole @ psi.T)
    with capturing(model, Against(psi=psi, low_rank=error)) as capture:
        factored, _ = capture(batch, Loss())
        assert isinstance(capture.sketch, AgainstSketch)
        assert not all(isinstance(queries, Plain) for queries in capture.sketch.queries.values())
    bound = sum(whole[:, slot].norm(dim=1)[:, None] * psi[:, slot].norm(dim=1) for slot in slots)
    assert bool(((factored - exact).abs() <= error * bound).all())
    assert float((factored - exact).abs().max()) > 1e-9


def test_lengths_without_forming_gradients() -> None:
    """Short inputs of a wide layer: |G|^2 from products of positions."""
    model: Model = array_model(nn.Linear(40, 30))
    batch = batch_of(model, arrays(torch.randn(4, 3, 40)))
    with capturing(model, Identity()) as capture:
        whole, _ = capture(batch, Loss())
    with capturing(model, Against(psi=whole[:1].clone(), squares=True)) as capture:
        products, _ = capture(batch, Loss())
        assert capture.sketch.pair(0, torch.randn(4, 3, 30), torch.randn(4, 3, 41), torch.float64) is not None
    torch.testing.assert_close(products, torch.cat([whole @ whole[:1].T, whole.square().sum(1, keepdim=True)], 1))
