"""Exact top-k and dense scores of queries against every stored row, in one pass over the disk.

    score(i, q) = sum over checkpoints c of  r_ci < f_ci, q_c >       r = row_scale, f = features as stored

A tile of rows is screened cheaply, with a bound on the error, and only rows whose score may still enter some query's
top k are scored exactly:

    |score - screened| <= sum_c |r_ci| ||f_ci|| err_cq               (Cauchy-Schwarz)

*int8*: a query is written in fixed point with three signed digits of 8 bits, q ~ t (65536 d1 + 256 d2 + d3), so
every product is an integer product. Screening uses d1 alone (err = the length of what d1 leaves out); the exact
score uses all three and has |q - q~| <= max|q| / 1.6e7 elementwise, the precision of float32. Integers do not depend
on the order of summation: equal rows have equal scores wherever they stand.
*float32, bfloat16* (and int8 on a processor without an exact int8 product): screening is a float32 product, the
exact score a float64 product.

Scores are rounded to float32; ties go to the smaller row number. Time: one matrix product of n x K by K x Q (int8:
a quarter of the float32 time), plus the exact part for about k ln(n / tile) rows a query and side. Memory: two tiles
(`StoredIndex.tile_rows`), the queries, and rows-of-a-tile x 256 scores; nothing of size n x Q or n x K.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64, Shaped
from numpy.typing import NDArray
from torch import Tensor

from assay.errors import InputError, NonFiniteError
from assay.index.product import INT8_MAX_DIM, UNIT, Integer, Real, exact_integer_product
from assay.index.reader import StoredIndex, StoredTile
from assay.progress import task

QUERY_GROUP = 256


@dataclass(frozen=True, slots=True)
class TopK:
    """For each query the rows with the highest and the lowest scores, best (worst) first; k = min(k, rows)."""

    helpful_rows: Int64[Tensor, "Q k"]
    helpful_scores: Float32[Tensor, "Q k"]
    harmful_rows: Int64[Tensor, "Q k"]
    harmful_scores: Float32[Tensor, "Q k"]


def top_k(
    index: StoredIndex,
    queries: Float[Tensor, "C Q K"],
    k: int,
    *,
    row_scale: Float[Tensor, "..."] | None = None,
    rows: Shaped[Tensor, "..."] | None = None,
) -> TopK:
    """The exact k highest and k lowest scores of each query.

    `queries`: one for each checkpoint, weights folded in. `row_scale`: a factor for each row, [n] or [C, n] (cosines:
    `1 / index.norms()`). `rows`: only these, a boolean mask [n] or row numbers. Raises CorruptIndex, InputError,
    NonFiniteError.
    """
    if k < 1:
        raise InputError(f"k is {k}; give at least 1.")
    scan = _Scan.prepare(index, queries, row_scale, rows)
    count = min(k, scan.selected)
    best = [_Best(count, len(group.columns)) for group in scan.groups]
    with _full_float32(), task("scanning", index.rows) as advance:
        for start, tiles in index.stored_tiles():
            kept, tile_rows = scan.select(start, tiles)
            if len(tile_rows):
                for group, state in zip(scan.groups, best, strict=True):
                    _offer(kept, group, tile_rows, state)
            advance(len(tiles[0].features))
    helpful, harmful = ([state.result(side) for state in best] for side in (0, 1))
    return TopK(
        torch.cat([r for r, _ in helpful]),
        torch.cat([s for _, s in helpful]),
        torch.cat([r for r, _ in harmful]),
        torch.cat([s for _, s in harmful]),
    )


def dense(
    index: StoredIndex, queries: Float[Tensor, "C Q K"], *, row_scale: Float[Tensor, "..."] | None = None
) -> Float32[Tensor, "n Q"]:
    """Every score, exactly as `top_k` computes it. Memory: the result."""
    scan = _Scan.prepare(index, queries, row_scale, None)
    scores = torch.empty(index.rows, queries.shape[1])
    with _full_float32(), task("scanning", index.rows) as advance:
        for start, tiles in index.stored_tiles():
            kept, tile_rows = scan.select(start, tiles)
            for group in scan.groups:
                scores[start : start + len(tile_rows), group.columns.start : group.columns.stop] = _exact(kept, group)
            advance(len(tile_rows))
    if not bool(scores.isfinite().all()):
        raise _overflow()
    return scores


# ---------------------------------------------------------------- one tile


@dataclass(frozen=True, slots=True)
class _Rows:
    """Selected rows of a tile: for each checkpoint the stored features, the factor that makes the stored numbers
    scores, and the length that bounds them.
    """

    features: tuple[Shaped[Tensor, "n K"], ...]
    factor: tuple[Float64[Tensor, " n"], ...]  # row_scale times the scale of int8
    length: Float32[Tensor, "n C"]  # |row_scale| ||f||, rounded up

    def take(self, chosen: Int64[Tensor, " m"]) -> "_Rows":
        return _Rows(
            tuple(part.index_select(0, chosen) for part in self.features),
            tuple(part[chosen] for part in self.factor),
            self.length[chosen],
        )


def _offer(tile: _Rows, group: "_Group", numbers: Int64[Tensor, " n"], best: "_Best") -> None:
    """Screen a tile, score exactly what may enter the top k, and hand it over."""
    screened = _screen(tile, group)
    floors = best.floors if best.full else _first_floors(screened, tile.length @ group.error, best.k)
    chosen = _may_enter(screened, tile, group, floors).nonzero().squeeze(1)
    if len(chosen):
        tile = tile if len(chosen) == len(numbers) else tile.take(chosen)
        best.offer(_exact(tile, group), numbers[chosen], floors)


def _screen(tile: _Rows, group: "_Group") -> Float32[Tensor, "n Q"]:
    """Approximate scores; the error is at most `tile.length @ group.error`."""
    parts = [
        product.screen(stored, factor.float())
        for stored, factor, product in zip(tile.features, tile.factor, group.products, strict=True)
    ]
    return reduce(Tensor.add_, parts)


def _exact(tile: _Rows, group: "_Group") -> Float32[Tensor, "n Q"]:
    parts = [
        product.exact(stored).mul_(factor[:, None])
        for stored, factor, product in zip(tile.features, tile.factor, group.products, strict=True)
    ]
    return reduce(Tensor.add_, parts).float()


def _first_floors(screened: Float32[Tensor, "n Q"], slack: Float32[Tensor, "n Q"], k: int) -> Float32[Tensor, "2 Q"]:
    """The k-th best that this tile alone guarantees on each side; minus infinity if it has fewer rows."""
    if len(screened) < k:
        return torch.full((2, screened.shape[1]), -torch.inf)
    return torch.stack([(side - slack).topk(k, dim=0).values[-1] for side in (screened, -screened)])


def _may_enter(
    screened: Float32[Tensor, "n Q"], tile: _Rows, group: "_Group", floors: Float32[Tensor, "2 Q"]
) -> Bool[Tensor, " n"]:
    """Rows that may reach a floor of some query: high + error >= floors[0] or -low + error >= floors[1].

    With middle and half width of the interval between the floors both are |x - middle| + error >= half.
    Overwrites `screened`.
    """
    if not bool(floors.isfinite().all()):
        return torch.ones(len(screened), dtype=torch.bool)
    high, low = floors[0], -floors[1]
    half = (high - low) / 2 - 8 * UNIT * (high.abs() + low.abs())
    reach = screened.sub_((high + low) / 2).abs_().addmm_(tile.length, group.error).sub_(half).amax(1)
    return ~(reach < 0)  # NaN, from an overflow in float32, counts as a hit


class _Best:
    """The best k of each query so far, on the helpful side (0) and, negated, on the harmful side (1)."""

    def __init__(self, k: int, queries: int) -> None:
        self.k, self._queries = k, queries
        self.full = False
        self._finite = True  # judged at the end: until then damage on disk is the likelier cause, and named better
        self.floors = torch.full((2, queries), -torch.inf)
        empty = np.empty(0, np.int64)
        self._kept = [(empty, np.empty(0, np.float32), empty)] * 2  # query, score, row
        self._waiting: list[list[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]]] = [[], []]
        self._seen = self._count = 0

    def offer(self, scores: Float32[Tensor, "m Q"], rows: Int64[Tensor, " m"], floors: Float32[Tensor, "2 Q"]) -> None:
        self._finite = self._finite and bool(scores.isfinite().all())
        for side, signed in enumerate((scores, -scores)):
            row, query = (signed >= floors[side]).nonzero(as_tuple=True)
            self._waiting[side].append((query.numpy(), signed[row, query].numpy(), rows[row].numpy()))
            self._count += len(row)
        if not self.full or self._count > self.k * self._queries:
            self._settle()

    def _settle(self) -> None:
        """Sort by query, then score, then row; keep k of each query; later rows must beat the k-th strictly."""
        for side in (0, 1):
            parts = [self._kept[side], *self._waiting[side]]
            query, score, row = (np.concatenate(column) for column in zip(*parts, strict=True))
            order = np.lexsort((row, -score, query))
            query = query[order]
            first = np.searchsorted(query, np.arange(self._queries))
            place = np.arange(len(query)) - first[query]
            order, query = order[place < self.k], query[place < self.k]
            self._kept[side] = (query, score[order], row[order])
            self._waiting[side] = []
            self.full = len(query) == self.k * self._queries
            if self.full:
                last = score[order].reshape(self._queries, self.k)[:, -1]
                self.floors[side] = torch.from_numpy(np.nextafter(last, np.float32(np.inf)))
        self._count = 0

    def result(self, side: int) -> tuple[Int64[Tensor, "Q k"], Float32[Tensor, "Q k"]]:
        if not self._finite:
            raise _overflow()
        if self._count:
            self._settle()
        _, score, row = self._kept[side]
        shape = (self._queries, self.k)
        signed = score if side == 0 else -score
        return torch.from_numpy(row.reshape(shape)), torch.from_numpy(signed.reshape(shape))


# ---------------------------------------------------------------- one scan


@dataclass(frozen=True, slots=True)
class _Group:
    """Up to 256 queries, prepared for each checkpoint."""

    columns: range
    products: tuple[Integer | Real, ...]
    error: Float32[Tensor, "C Q"]


@dataclass(frozen=True, slots=True)
class _Scan:
    """The checked and prepared arguments of a scan."""

    groups: tuple[_Group, ...]
    row_scale: Float64[Tensor, "C n"] | None
    mask: Shaped[Tensor, " n"] | None
    selected: int

    @staticmethod
    def prepare(
        index: StoredIndex, queries: Float[Tensor, "C Q K"], row_scale: Tensor | None, rows: Tensor | None
    ) -> "_Scan":
        expected = (index.checkpoints, index.dim)
        if queries.ndim != 3 or (queries.shape[0], queries.shape[2]) != expected or not queries.shape[1]:
            raise InputError(
                f"Queries have shape {tuple(queries.shape)}; the index '{index.path}' needs "
                f"[{expected[0]} checkpoints, queries, {expected[1]}]. Compute them as the index was built."
            )
        queries = queries.detach().cpu()
        bad = (~queries.isfinite()).any(2).any(0).nonzero()
        if len(bad):
            raise NonFiniteError(f"The features of query {int(bad[0])} are not finite. Check its loss.")
        kind = Integer if index.dtype == "int8" and index.dim <= INT8_MAX_DIM and exact_integer_product() else Real
        columns = range(queries.shape[1])
        groups = [columns[at : at + QUERY_GROUP] for at in range(0, len(columns), QUERY_GROUP)]
        mask = _mask(index, rows)
        return _Scan(
            tuple(_group(queries[:, group.start : group.stop], group, kind) for group in groups),
            _row_scale(index, row_scale),
            mask,
            index.rows if mask is None else int(mask.sum()),
        )

    def select(self, start: int, tiles: Sequence[StoredTile]) -> tuple[_Rows, Int64[Tensor, " n"]]:
        """The wanted rows of a tile, and their numbers in the index."""
        count = len(tiles[0].features)
        scales = [
            self.row_scale[c, start : start + count] if self.row_scale is not None else None for c in range(len(tiles))
        ]
        factor = [(tile.scale if tile.scale is not None else torch.ones(count)).double() for tile in tiles]
        length = [tile.norm * 1.00001 for tile in tiles]
        for c, scale in enumerate(scales):
            if scale is not None:
                factor[c] = factor[c] * scale
                length[c] = length[c] * scale.abs().float()
        kept = _Rows(tuple(tile.features for tile in tiles), tuple(factor), torch.stack(length, 1))
        numbers = torch.arange(start, start + count)
        if self.mask is None or bool(self.mask[start : start + count].all()):
            return kept, numbers
        chosen = self.mask[start : start + count].nonzero().squeeze(1)
        return kept.take(chosen), numbers[chosen]


def _group(queries: Float[Tensor, "C Q K"], columns: range, kind: type[Integer] | type[Real]) -> _Group:
    products = tuple(kind(part.double()) for part in queries)
    # The last term bounds the rounding of the sum over checkpoints.
    error = torch.stack([p.error for p in products]) + len(products) * UNIT * queries.square().sum(2).sqrt()
    return _Group(columns, products, error.float() * 1.00001)


def _mask(index: StoredIndex, rows: Tensor | None) -> Tensor | None:
    if rows is None:
        return None
    if rows.dtype == torch.bool and rows.shape == (index.rows,):
        mask = rows
    elif rows.dtype in (torch.int64, torch.int32) and rows.ndim == 1:
        if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= index.rows):
            raise InputError(f"Row numbers must be from 0 to {index.rows - 1}; given {rows.min()} to {rows.max()}.")
        mask = torch.zeros(index.rows, dtype=torch.bool)
        mask[rows.long()] = True
    else:
        given = f"{rows.dtype} {list(rows.shape)}"
        raise InputError(f"Rows were given as {given}; give a boolean mask [{index.rows}] or row numbers.")
    if not bool(mask.any()):
        raise InputError("No rows are selected; select at least one.")
    return mask


def _row_scale(index: StoredIndex, row_scale: Tensor | None) -> Tensor | None:
    if row_scale is None:
        return None
    shape = (index.checkpoints, index.rows)
    if tuple(row_scale.shape) not in (shape, shape[1:]):
        raise InputError(f"row_scale has shape {tuple(row_scale.shape)}; expected {shape[1:]} or {shape}.")
    bad = (~row_scale.isfinite()).reshape(-1, index.rows).any(0).nonzero()
    if len(bad):
        raise NonFiniteError(f"row_scale is not finite for example '{index.ids[int(bad[0])]}'.")
    return row_scale.detach().cpu().double().expand(shape)


def _overflow() -> NonFiniteError:
    return NonFiniteError("A score is beyond the range of float32. Scale the features or the queries down.")


@contextmanager
def _full_float32() -> Generator[None]:
    """The bound on screening holds for float32 products, not for a user's choice of faster ones."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
