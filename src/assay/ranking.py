"""The best rows at both ends, exact, ties broken by row.

Helpful rows have a score above zero, highest first; harmful rows a score below zero, lowest first; a zero
score is neither. Cost: O(n) a column, and sorting the k found.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from assay.errors import InputError, NonFiniteError

NONE = -1  # fills `rows` where a query has fewer than k helpful or harmful rows


@dataclass(frozen=True, eq=False)
class TopK:
    """Per query the k most helpful and k most harmful training rows, best first, filled up with row -1."""

    helpful_rows: Int64[np.ndarray, "n_query k"]
    helpful_scores: Float32[np.ndarray, "n_query k"]
    harmful_rows: Int64[np.ndarray, "n_query k"]
    harmful_scores: Float32[np.ndarray, "n_query k"]

    @classmethod
    def of_columns(cls, columns: Iterable[Float[np.ndarray, " n"]], k: int) -> Self:
        """From one dense column of scores per query, of which only one is held at a time.

        Fewer than k if there are fewer rows. Raises NonFiniteError for NaN or infinite scores.
        """
        check_k(k)
        singles = (column.astype(np.float32) for column in columns)  # the same ties as in a dense result
        found = [(*_best_of(column, k, +1), *_best_of(column, k, -1)) for column in singles]
        if not found:
            rows, scores = np.empty((0, k), np.int64), np.empty((0, k), np.float32)
            return cls(rows, scores, rows, scores)
        return cls(*map(np.stack, zip(*found, strict=True)))

    @classmethod
    def of_ends(
        cls,
        highest_rows: Int64[np.ndarray, "n_query k"],
        highest_scores: Float32[np.ndarray, "n_query k"],
        lowest_rows: Int64[np.ndarray, "n_query k"],
        lowest_scores: Float32[np.ndarray, "n_query k"],
    ) -> Self:
        """From the k highest and the k lowest scores of each query, best first, whatever their signs."""
        check_finite(highest_scores)
        check_finite(lowest_scores)
        helpful, harmful = highest_scores > 0, lowest_scores < 0
        zero = np.float32(0)
        return cls(
            np.where(helpful, highest_rows, NONE),
            np.where(helpful, highest_scores, zero),
            np.where(harmful, lowest_rows, NONE),
            np.where(harmful, lowest_scores, zero),
        )

    @property
    def k(self) -> int:
        """How many rows each side can hold."""
        return self.helpful_rows.shape[1]

    def side(
        self, query: int, sign: int, k: int | None = None
    ) -> tuple[Int64[np.ndarray, " m"], Float32[np.ndarray, " m"]]:
        """Rows and scores of one query at one end (`sign` +1 helpful, -1 harmful), without the filling."""
        rows, scores = (
            (self.helpful_rows, self.helpful_scores) if sign > 0 else (self.harmful_rows, self.harmful_scores)
        )
        real = rows[query] != NONE
        return rows[query][real][:k], scores[query][real][:k]

    def rows(self) -> Int64[np.ndarray, " m"]:
        """Every training row that appears, ascending."""
        found = np.unique(np.concatenate([self.helpful_rows.ravel(), self.harmful_rows.ravel()]))
        return found[found != NONE]


def best(column: Float[np.ndarray, " n"], k: int | None, sign: int) -> Int64[np.ndarray, " m"]:
    """The at most k rows of one sign furthest from zero, furthest first; equal scores in order of row."""
    check_finite(column)
    column = sign * column
    rows = np.flatnonzero(column > 0)
    if k is not None and k < len(rows):
        least = np.partition(column[rows], len(rows) - k)[len(rows) - k]
        rows = rows[column[rows] >= least]  # every tie at the edge stays until the stable sort decides by row
    return rows[np.argsort(-column[rows], kind="stable")][:k]


def membership(
    values: Float64[np.ndarray, " n"], stderr: Float64[np.ndarray, " n"], k: int, draws: int = 2048
) -> Float64[np.ndarray, " n"]:
    """The probability of each to be among the k highest, if the values are normal with these standard errors.

    They are taken as independent. By simulation with a fixed seed: its own error is at most 0.5 / sqrt(draws). Equal
    values without error are decided by their order.
    """
    check_k(k)
    n, random = len(values), np.random.default_rng(0)
    if k >= n:
        return np.ones(n)
    if not stderr.any():
        found = np.zeros(n)
        found[np.argsort(-values, kind="stable")[:k]] = 1.0
        return found
    count, block = np.zeros(n), max(1, min(draws, 2**21 // n))
    for start in range(0, draws, block):
        drawn = values + stderr * random.standard_normal((min(block, draws - start), n))
        highest = np.argpartition(-drawn, k - 1, axis=1)[:, :k]
        count += np.bincount(highest.ravel(), minlength=n)
    return count / draws


def check_k(k: int) -> None:
    """Refuse to look for fewer than one."""
    if k < 1:
        raise InputError(f"top = {k} was asked for; it must be at least 1.")


def check_finite(scores: Float[np.ndarray, "..."]) -> None:
    """Refuse NaN and infinity, which have no place in any order."""
    if not np.isfinite(scores).all():
        where = tuple(np.argwhere(~np.isfinite(scores))[0].tolist())
        raise NonFiniteError(
            f"The score at {where} of {scores.shape} is NaN or infinite; scores must be finite. "
            "Look at the loss and gradient of that example, or leave it out."
        )


def _best_of(
    column: Float[np.ndarray, " n"], k: int, sign: int
) -> tuple[Int64[np.ndarray, " k"], Float32[np.ndarray, " k"]]:
    found = best(column, k, sign)
    k = min(k, len(column))
    rows, scores = np.full(k, NONE, np.int64), np.zeros(k, np.float32)
    rows[: len(found)], scores[: len(found)] = found, column[found]
    return rows, scores
