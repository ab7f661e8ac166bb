"""Compressions against their formulas, and the error of inner products that the docs state."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from assay.compress import SJLT, Compression, Factored, Identity, parse
from assay.compress.factored import FactoredSketch
from assay.errors import MethodError
from assay.gradients.blocks import Block
from assay.gradients.rules import OneHot
from assay.gradients.sketch import Sketch, generator, sum_outer, sum_outer_flat

BLOCKS = (Block("a", 7, 9, ("a.weight",)), Block("b.norm", 5, 1, ("b.norm",)), Block("c", 3, 20, ("c.weight",)))
CPU = torch.device("cpu")
CHOICES = [Identity(), Factored(rank=4), Factored(rank=2), SJLT(dim=16)]


def bound(compression: Compression, blocks: Sequence[Block] = BLOCKS) -> Sketch:
    return compression.bind(blocks, CPU, torch.float64)


def gradients(batch: int, blocks: Sequence[Block] = BLOCKS, seed: int = 0) -> list[Tensor]:
    source = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, b.rows, b.cols, generator=source, dtype=torch.float64) for b in blocks]


def features(sketch: Sketch, given: Sequence[Tensor]) -> Tensor:
    total = torch.zeros(len(given[0]), sketch.width, dtype=torch.float64)
    for k, gradient in enumerate(given):
        total[:, sketch.slots[k]] += sketch.whole(k, gradient)
    return total


@pytest.mark.parametrize("compression", CHOICES, ids=str)
def test_linear(compression: Compression) -> None:
    sketch = bound(compression)
    g, h = gradients(3, seed=1), gradients(3, seed=2)
    mixed = [2 * a - 3 * b for a, b in zip(g, h, strict=True)]
    torch.testing.assert_close(features(sketch, mixed), 2 * features(sketch, g) - 3 * features(sketch, h))


@pytest.mark.parametrize("compression", CHOICES, ids=str)
def test_sides_and_whole_gradients_agree(compression: Compression) -> None:
    """`sum_t (P d_t)(Q a_t)^T = P (sum_t d_t a_t^T) Q^T`, whichever way a gradient comes."""
    sketch = bound(compression)
    for k, block in enumerate(BLOCKS):
        left, right = torch.randn(2, 6, block.rows).double(), torch.randn(2, 6, block.cols).double()
        whole = sketch.whole(k, torch.einsum("btr,btc->brc", left, right))
        sides = sum_outer(sketch.left(k, left), sketch.right(k, right), torch.float64)
        torch.testing.assert_close(sketch.emit(k, sides), whole)


@pytest.mark.parametrize("compression", CHOICES, ids=str)
def test_one_hot_sides_agree_with_dense_ones(compression: Compression) -> None:
    sketch = bound(compression)
    index = torch.tensor([[0, 6, 6, -1, 2], [-1, -1, 1, 1, 1]])
    right = torch.randn(2, 5, 9).double()
    dense = torch.zeros(2, 5, 7).double()
    for b, t in (index >= 0).nonzero().tolist():
        dense[b, t, index[b, t]] = 1
    pairs = [(OneHot(index, 7), right), (dense, right)]
    found = [sketch.emit(0, sum_outer(sketch.left(0, x), sketch.right(0, y), torch.float64)) for x, y in pairs]
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(sum_outer(right, OneHot(index, 7), torch.float64), right.transpose(1, 2) @ dense)


def test_tokens_in_one_list() -> None:
    left, right = torch.randn(7, 3).double(), torch.randn(7, 2).double()
    example = torch.tensor([0, 0, 0, 2, 2, 3, 3])  # example 1 has none
    total = sum_outer_flat(left, right, example, 5, torch.float64)
    for b in range(5):
        torch.testing.assert_close(total[b], left[example == b].T @ right[example == b])


def test_factored_is_p_g_q() -> None:
    sketch = bound(Factored(rank=4))
    assert isinstance(sketch, FactoredSketch)
    g = gradients(2)
    (p, q) = sketch.lefts[0], sketch.rights[0]
    assert p is not None
    assert q is not None
    assert p.abs().unique().tolist() == [0.5]
    expected = [p.T @ g[0] @ q, g[1].clone()]
    assert sketch.lefts[2] is None  # three rows are no more than the rank
    assert sketch.rights[2] is not None
    expected[1:] = [sketch.lefts[1].T @ g[1], g[2] @ sketch.rights[2]]  # pyright: ignore[reportOptionalMemberAccess]
    torch.testing.assert_close(features(sketch, g), torch.cat([e.flatten(1) for e in expected], 1))
    assert sketch.width == 16 + 4 + 12


def test_sjlt_is_a_count_sketch() -> None:
    """A loop over parameters with the same hashes."""
    compression = SJLT(seed=3, dim=8)
    g = gradients(2)
    expected = torch.zeros(2, 8).double()
    for block, gradient in zip(BLOCKS, g, strict=True):
        source = generator(3, block.name, "sjlt")
        buckets = torch.randint(0, 8, (block.size,), generator=source).tolist()
        bits = torch.randint(0, 2, (block.size,), generator=source, dtype=torch.int8).tolist()
        for j, (bucket, bit) in enumerate(zip(buckets, bits, strict=True)):
            expected[:, bucket] += (1 if bit else -1) * gradient.flatten(1)[:, j]
    torch.testing.assert_close(features(bound(compression), g), expected)


@pytest.mark.parametrize("compression", [Identity(), Factored(rank=20), Factored(rank=100)], ids=str)
def test_sides_short_enough_to_keep_give_exact_products(compression: Compression) -> None:
    phi = features(bound(compression), gradients(4))
    whole = torch.cat([g.flatten(1) for g in gradients(4)], 1)
    torch.testing.assert_close(phi, whole)


def relative_variance(rank: int, block: Block) -> float:
    """The bound that the docs state: `(1 + t_P)(1 + t_Q) - 1`, t = 2 / rank for a projected side."""
    left, right = (2 / rank if size > rank else 0.0 for size in (block.rows, block.cols))
    return (1 + left) * (1 + right) - 1


SEEDS = 2000


def pairs(name: str) -> tuple[Tensor, Tensor]:
    """Pairs of unit gradients [12, 15]: unrelated, equal and of rank one."""
    source = torch.Generator().manual_seed(7)
    g, h = torch.randn(2, 12, 15, generator=source, dtype=torch.float64)
    if name == "equal":
        h = g
    if name == "rank one":
        g = h = torch.outer(g[:, 0], h[0])
    return g / g.norm(), h / h.norm()


@pytest.mark.parametrize("name", ["unrelated", "equal", "rank one"])
@pytest.mark.parametrize("compression", [Factored(rank=4), Factored(rank=8), SJLT(dim=32)], ids=str)
def test_products_are_unbiased_and_as_exact_as_stated(compression: Compression, name: str) -> None:
    """Over 2000 seeds: the mean within 4 standard errors of the bound, the variance at most 1.25 times the bound."""
    block = Block("only", 12, 15, ("w",))
    g, h = pairs(name)
    limit = 2 / compression.dim if isinstance(compression, SJLT) else relative_variance(compression.rank, block)  # pyright: ignore
    products = np.empty(SEEDS)
    for seed in range(SEEDS):
        phi = features(bound(type(compression)(**{**vars(compression), "seed": seed}), [block]), [torch.stack([g, h])])
        products[seed] = float(phi[0] @ phi[1])
    assert abs(products.mean() - float((g * h).sum())) < 4 * math.sqrt(limit / SEEDS)
    assert products.var() < 1.25 * limit


def test_the_bound_is_nearly_reached_by_rank_one_gradients() -> None:
    """Else the stated error would be of no use: at least half of it shows."""
    block = Block("only", 12, 15, ("w",))
    g, _ = pairs("rank one")
    stack = torch.stack([g, g])
    found = [features(bound(Factored(seed, 4), [block]), [stack]) for seed in range(SEEDS)]
    variance = float(np.var([float(phi[0] @ phi[1]) for phi in found]))
    assert variance > 0.5 * relative_variance(4, block)


def test_errors_of_several_blocks_average_out() -> None:
    """Sixteen equal blocks: a sixteenth of the variance."""
    blocks = [Block(str(k), 12, 15, ("w",)) for k in range(16)]
    g, _ = pairs("unrelated")
    stack = [torch.stack([g, g]) / 4] * 16
    found = [features(bound(Factored(seed, 4), blocks), stack) for seed in range(300)]
    variance = float(np.var([float(phi[0] @ phi[1]) for phi in found]))
    assert variance < 1.25 * relative_variance(4, blocks[0]) / 16


def test_seeds_mean_the_same_everywhere() -> None:
    """The first entries, written down once: an index built on another machine or version must agree."""
    sketch = bound(Factored(seed=0, rank=4))
    assert isinstance(sketch, FactoredSketch)
    assert sketch.lefts[0] is not None
    assert (2 * sketch.lefts[0][:3]).int().tolist() == GOLDEN_SIGNS
    buckets = bound(SJLT(seed=0, dim=16)).buckets[0][:8].tolist()  # pyright: ignore
    assert buckets == GOLDEN_BUCKETS


GOLDEN_SIGNS = [[-1, -1, 1, -1], [1, -1, 1, -1], [-1, -1, 1, -1]]
GOLDEN_BUCKETS = [7, 12, 13, 11, 5, 6, 14, 0]


def test_matrices_differ_by_seed_block_and_side_and_not_by_precision() -> None:
    square = [Block("a", 9, 9, ("a",)), Block("b", 9, 9, ("b",))]
    matrices: list[Tensor] = []
    for seed in (0, 1):
        sketch = bound(Factored(seed, 4), square)
        assert isinstance(sketch, FactoredSketch)
        matrices += [m for m in (*sketch.lefts, *sketch.rights) if m is not None]
    assert len({tuple(m.sign().flatten().tolist()) for m in matrices}) == 8
    half = Factored(0, 4).bind(square, CPU, torch.bfloat16)
    assert isinstance(half, FactoredSketch)
    assert half.lefts[0] is not None
    assert half.lefts[0].dtype == torch.bfloat16
    assert torch.equal(half.lefts[0].double(), matrices[0])


def test_names_on_the_command_line() -> None:
    assert parse("none", 3) == Identity(3)
    assert parse("factored") == Factored(0, 16)
    assert parse("factored:8", 2) == Factored(2, 8)
    assert parse("sjlt:512") == SJLT(0, 512)
    for compression in CHOICES:
        assert parse(str(compression)) == compression


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("factord:8", "Did you mean 'factored'"), ("", "no compression"), ("factored:x", "cannot be read"),
        ("factored:-1", "cannot be read"), ("none:3", "cannot be read"), ("sjlt:\u00b2", "cannot be read"),
        ("factored:0", "at least 1"), ("sjlt:0", "at least 1"), ("factored:8:8", "cannot be read"),
    ],
)  # fmt: skip
def test_names_that_mean_nothing(text: str, message: str) -> None:
    with pytest.raises(MethodError, match=message):
        parse(text)


def test_the_table_in_the_docs(repository: Path) -> None:
    """Every stated error is the formula's."""
    text = (repository / "docs" / "compression.md").read_text("utf-8")
    rows = re.findall(r"^\| `((?:factored|sjlt):\d+)` \| ([\d.]+) \| ([\d.]+) \|$", text, re.M)
    assert len(rows) == 10
    for name, one, fifty in rows:
        compression = parse(name)
        if isinstance(compression, Factored):
            deviation = relative_variance(compression.rank, Block("w", 10**6, 10**6, ("w",))) ** 0.5
            many = deviation / 50**0.5
        else:
            assert isinstance(compression, SJLT)
            deviation = many = (2 / compression.dim) ** 0.5
        assert float(one) == pytest.approx(deviation, abs=6e-4)
        assert float(fifty) == pytest.approx(many, abs=6e-4)
