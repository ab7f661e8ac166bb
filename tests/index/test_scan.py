"""Exact scores and top-k against brute force in float64."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from assay.errors import InputError, NonFiniteError
from assay.index import Dtype, StoredIndex, TopK, Writer, dense, open_index, top_k
from assay.index import product as products
from assay.index import reader as reading
from assay.index import scan as scanning

DTYPES: tuple[Dtype, ...] = ("int8", "bfloat16", "float32")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiles here are too small to share."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["integer", "widened"], autouse=True)
def product(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test with the int8 product, if this machine has an exact one, and with the float fallback."""
    if request.param == "integer" and not products.exact_integer_product():
        pytest.skip("no exact int8 product on this machine")
    monkeypatch.setattr(scanning, "exact_integer_product", lambda: request.param == "integer")
    monkeypatch.setattr(reading, "TILE_ROWS", 64)  # many tiles from few rows
    return request.param


def store(path: Path, features: Tensor, dtype: Dtype = "int8") -> StoredIndex:
    with Writer(path, {}, dtype=dtype, dim=features.shape[2], checkpoints=len(features), shard_rows=50) as writer:
        for checkpoint, part in enumerate(features):
            writer.add(checkpoint, [str(row) for row in range(len(part))], part)
        writer.finish()
    return open_index(path)


def decoded(index: StoredIndex) -> Tensor:
    parts = [torch.cat([tile.features for tile in index.tiles(c)]) for c in range(index.checkpoints)]
    return torch.stack(parts).double()


def brute_force(index: StoredIndex, queries: Tensor, row_scale: Tensor | None = None) -> Tensor:
    scores = torch.einsum("cnk,cqk->cnq", decoded(index), queries.double())
    if row_scale is not None:
        scores = scores * row_scale.double().expand(index.checkpoints, index.rows)[:, :, None]
    return scores.sum(0)


def assert_top(found: TopK, scores: Tensor, k: int, tolerance: float, rows: Tensor | None = None) -> None:
    """Rows and order are those of a stable sort, up to pairs that float32 cannot tell apart."""
    numbers = torch.arange(len(scores)) if rows is None else rows
    for sign, row, score in (
        (1, found.helpful_rows, found.helpful_scores),
        (-1, found.harmful_rows, found.harmful_scores),
    ):
        assert tuple(row.shape) == tuple(score.shape) == (scores.shape[1], min(k, len(numbers)))
        order = (-sign * scores[numbers]).argsort(dim=0, stable=True)[:k].T
        wanted = scores.gather(0, numbers[order].T).T
        assert (score.double() - wanted).abs().max() <= tolerance
        assert (scores.gather(0, row.T).T - wanted).abs().max() <= tolerance
        assert all(len(set(one)) == len(one) for one in row.tolist())
        clear = (wanted.diff(dim=1).abs() > 4 * tolerance).all(1)
        last = (-sign * scores[numbers]).sort(dim=0).values
        if k < len(numbers):
            clear &= (last[k] - last[k - 1]) > 4 * tolerance
        assert torch.equal(row[clear], numbers[order][clear])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bound(index: StoredIndex, queries: Tensor) -> float:
    """Float32 resolution of scores of this size."""
    return float(index.norms().max() * queries.norm(dim=2).sum(0).max()) * 2.0**-22


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("checkpoints", [1, 3])
@pytest.mark.parametrize("k", [1, 7, 100, 2000])
def test_top_k_is_brute_force(tmp_path: Path, dtype: Dtype, checkpoints: int, k: int) -> None:
    features = random(checkpoints, 300, 40) * random(checkpoints, 300, 1, seed=1).exp()
    index = store(tmp_path, features, dtype)
    queries = random(checkpoints, 9, 40, seed=2)
    scores = brute_force(index, queries)
    tolerance = bound(index, queries)
    assert_top(top_k(index, queries, k), scores, k, tolerance)
    assert (dense(index, queries) - scores).abs().max() <= tolerance


@pytest.mark.parametrize("dtype", DTYPES)
def test_row_scales(tmp_path: Path, dtype: Dtype) -> None:
    index = store(tmp_path, random(2, 300, 40) * random(2, 300, 1, seed=1).exp(), dtype)
    queries = random(2, 5, 40, seed=2)
    cosines = 1 / index.norms()
    for scale in (cosines, random(300, seed=4), torch.zeros(300)):
        scores = brute_force(index, queries, scale)
        tolerance = bound(index, queries) * float(scale.abs().max())
        assert_top(top_k(index, queries, 20, row_scale=scale), scores, 20, tolerance)
        assert (dense(index, queries, row_scale=scale) - scores).abs().max() <= tolerance
    assert dense(index, queries[:, :, :], row_scale=cosines).abs().max() <= queries.norm(dim=2).sum(0).max()


@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_go_to_the_smaller_row(tmp_path: Path, dtype: Dtype) -> None:
    """Copies in different tiles and shards have exactly equal scores."""
    features = random(1, 500, 40)
    best = features[0] @ features[0, 3] / features[0].norm(dim=1)
    copies = [3, 70, 71, 299, 431]
    features[0, copies] = features[0, 3] * 3
    index = store(tmp_path, features, dtype)
    query = features[:, 3:4] / best.max()
    found = top_k(index, query, 3)
    assert found.helpful_rows[0].tolist() == [3, 70, 71]
    assert len(set(found.helpful_scores[0].tolist())) == 1
    assert top_k(index, -query, 4).harmful_rows[0].tolist() == [3, 70, 71, 299]
    zero = top_k(index, torch.zeros(1, 1, 40), 5)
    assert zero.helpful_rows[0].tolist() == zero.harmful_rows[0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("dtype", DTYPES)
def test_chosen_rows(tmp_path: Path, dtype: Dtype) -> None:
    index = store(tmp_path, random(2, 300, 40), dtype)
    queries = random(2, 5, 40, seed=2)
    mask = random(300, seed=5) > 0.8
    mask[100:200] = False
    scores, rows = brute_force(index, queries), mask.nonzero().squeeze(1)
    for given in (mask, rows, rows.flip(0)):
        assert_top(top_k(index, queries, 10, rows=given), scores, 10, bound(index, queries), rows)
    one = top_k(index, queries, 10, rows=torch.tensor([250]))
    assert one.helpful_rows.tolist() == [[250]] * 5


def test_many_queries_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = store(tmp_path, random(2, 150, 40))
    queries = random(2, 30, 40, seed=2)
    whole, scores = top_k(index, queries, 10), dense(index, queries)
    monkeypatch.setattr(scanning, "QUERY_GROUP", 7)
    parts = top_k(index, queries, 10)
    assert torch.equal(whole.helpful_rows, parts.helpful_rows)
    assert torch.equal(whole.harmful_scores, parts.harmful_scores)
    assert torch.equal(scores, dense(index, queries))


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_do_not_depend_on_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Dtype) -> None:
    index = store(tmp_path, random(2, 300, 40), dtype)
    queries = random(2, 9, 40, seed=2)
    found = []
    for rows in (13, 100, 300):
        monkeypatch.setattr(reading, "TILE_ROWS", rows)
        found.append(top_k(index, queries, 25))
    for other in found[1:]:
        assert torch.equal(found[0].helpful_rows, other.helpful_rows)
        assert torch.equal(found[0].helpful_scores, other.helpful_scores)
        assert torch.equal(found[0].harmful_rows, other.harmful_rows)


@pytest.mark.parametrize("dtype", DTYPES)
def test_top_k_is_the_order_of_dense(tmp_path: Path, dtype: Dtype) -> None:
    index = store(tmp_path, random(1, 700, 40), dtype)
    queries = random(1, 9, 40, seed=2)
    scores, found = dense(index, queries), top_k(index, queries, 30)
    assert torch.equal(found.helpful_rows, (-scores).argsort(dim=0, stable=True)[:30].T)
    assert torch.equal(found.harmful_rows, scores.argsort(dim=0, stable=True)[:30].T)
    assert torch.equal(found.helpful_scores, scores.gather(0, found.helpful_rows.T).T)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hard", ["spiky", "aligned", "large", "tiny"])
def test_screening_never_loses_a_row(tmp_path: Path, dtype: Dtype, hard: str) -> None:
    """Queries and features for which the first digit, or float32, is a poor guide."""
    features, queries = random(1, 600, 64), random(1, 6, 64, seed=2)
    if hard == "spiky":  # one coordinate takes the whole range of the query's first digit, and no row has it
        queries[:, :, 0], features[:, :, 0] = 1e4, 0
    elif hard == "aligned":  # all scores agree in their first digits
        features = features * 1e-3 + queries[0, 0]
    else:
        features, queries = (t * (1e15 if hard == "large" else 1e-15) for t in (features, queries))
    index = store(tmp_path, features, dtype)
    for factor in (1, 1000):
        scale = torch.full((600,), factor)
        scores = brute_force(index, queries, scale)
        assert_top(top_k(index, queries, 10, row_scale=scale.float()), scores, 10, factor * bound(index, queries))


def test_screening_bound_holds(tmp_path: Path, product: str) -> None:
    """|cheap - exact| <= length x error for every pair, and the bound is not vacuous."""
    stored = torch.randint(-127, 128, (500, 300), dtype=torch.int8, generator=torch.Generator().manual_seed(0))
    queries = random(20, 300, seed=1).double()
    kind = products.Integer if product == "integer" else products.Real
    made = kind(queries)
    truth = stored.double() @ queries.T
    length = stored.double().norm(dim=1)
    error = (made.screen(stored, torch.ones(500)) - truth).abs() / length[:, None]
    assert (error <= made.error).all()
    assert (made.error <= 0.02 * queries.norm(dim=1)).all()
    exact = (made.exact(stored) - truth).abs()
    assert (exact <= stored.abs().double().sum(1)[:, None] * queries.abs().amax(1) * 2.0**-23).all()


def test_most_rows_are_only_screened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "TILE_ROWS", 1000)
    index = store(tmp_path, random(1, 10_000, 64))
    seen = 0
    exact = scanning._exact

    def counting(tile: object, group: object) -> Tensor:
        nonlocal seen
        result = exact(tile, group)  # type: ignore[arg-type]
        seen += len(result)
        return result

    monkeypatch.setattr(scanning, "_exact", counting)
    top_k(index, random(1, 4, 64, seed=2), 10)
    assert 80 <= seen < 2000


def test_bad_arguments(tmp_path: Path) -> None:
    index = store(tmp_path, random(2, 30, 8))
    queries = random(2, 3, 8, seed=2)
    with pytest.raises(InputError, match="at least 1"):
        top_k(index, queries, 0)
    for wrong in (queries[:1], queries[:, :, :4], queries[:, :0]):
        with pytest.raises(InputError, match=r"needs \[2 checkpoints, queries, 8\]"):
            top_k(index, wrong, 1)
    with pytest.raises(InputError, match="row_scale has shape"):
        dense(index, queries, row_scale=torch.ones(29))
    with pytest.raises(NonFiniteError, match="example '4'"):
        dense(index, queries, row_scale=torch.ones(30).index_fill(0, torch.tensor([4]), torch.inf))
    with pytest.raises(InputError, match="from 0 to 29"):
        top_k(index, queries, 1, rows=torch.tensor([30]))
    with pytest.raises(InputError, match="No rows"):
        top_k(index, queries, 1, rows=torch.zeros(30, dtype=torch.bool))
    with pytest.raises(InputError, match="boolean mask"):
        top_k(index, queries, 1, rows=torch.zeros(29, dtype=torch.bool))
    queries[1, 2, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="query 2"):
        top_k(index, queries, 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_beyond_float32_are_an_error(tmp_path: Path, dtype: Dtype) -> None:
    index = store(tmp_path, random(1, 30, 8) * 1e25, dtype)
    for use in (lambda: top_k(index, random(1, 3, 8) * 1e25, 2), lambda: dense(index, random(1, 3, 8) * 1e25)):
        with pytest.raises(NonFiniteError, match="beyond the range"):
            use()


def test_a_faster_float32_is_switched_off_and_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some processors would round float32 products to bfloat16; the bound on screening would not hold."""
    index = store(tmp_path, random(1, 300, 40), "float32")
    seen = set()
    screen = scanning._screen

    def watching(tile: object, group: object) -> Tensor:
        seen.add(torch.get_float32_matmul_precision())
        return screen(tile, group)  # type: ignore[arg-type]

    monkeypatch.setattr(scanning, "_screen", watching)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        top_k(index, random(1, 5, 40, seed=2), 10)
        assert seen == {"highest"}
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


MEMORY = """
import resource, sys, torch
from assay.index import open_index, top_k
index = open_index(sys.argv[1])
queries = torch.randn(1, 8, index.dim)
top_k(index, queries, 10, rows=torch.tensor([0]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
top_k(index, queries, 10)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_scanning_memory_does_not_grow_with_the_index(tmp_path: Path, product: str) -> None:
    """A scan of 48 MiB after one that used the same buffers adds less than a third of it."""
    if product == "widened":
        pytest.skip("a process of its own chooses its product")
    rows, dim = 12_288, 4096
    with Writer(tmp_path, {}, dtype="int8", dim=dim) as writer:
        for start in range(0, rows, 4096):
            part = random(4096, dim, seed=start)
            writer.add(0, [str(row) for row in range(start, start + 4096)], part)
        writer.finish()
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True)
    unit = 1024 if sys.platform != "darwin" else 1
    assert int(done.stdout) * unit < 16 << 20
