"""Distilling a scorer from values that the model measured on a sample: ridge regressions, and what they are worth.

Where the model has told the parts of its values by token, a first regression learns from each word (`pieces`), and the second, of
whole rows, from what the first leaves in rows that it was not fitted to.

Everything that is said of the scorer comes of residuals of rows that it was not fitted to: five random folds, and, where the rows have
sources, one source after the other left out, since a student easily learns which source a row is from and nothing else
(`Held`). The strength of the ridge alone is chosen on the whole sample, by leave-one-out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from jaxtyping import Float64, Int64
from scipy.sparse import linalg

from assay.errors import MethodError
from assay.methods.student.ngrams import Sparse, ngrams, novelty, shape, standard
from assay.methods.student.pieces import Lessons, Told, WordLine
from assay.methods.student.ridge import Ridge, fit
from assay.methods.student.scorer import LEVEL, Line, Scorer

LEAST = 20
"""Distinct rows that a scorer is fitted to, at least."""
MOST = 2000
"""Rows whose kernel matrix is decomposed; more rows add to the fit by conjugate gradients."""
FOLDS = 5
FLOOR = 0.05
"""Errors are not told apart below this share of the values' spread."""
OUTSIDE = 0.01
"""Share of the sample's own rows that count as strange."""
SHARED = 2
"""Rows that an n-gram must stand in to be seen."""
FEW = 10
"""Rows of a source that a rank correlation needs."""


@dataclass(frozen=True)
class Held:
    """Rank correlations of predicted with measured values on rows the fit had not seen.

    `spearman`: on random folds, between `low` and `high` with 95% confidence. `within`: mean over sources on the same folds.
    `unseen`, `unseen_within`: with each source left out as a whole, over all rows and the mean over sources. None where unknown.
    """

    rows: int
    sources: int
    spearman: float
    low: float
    high: float
    within: float | None
    unseen: float | None
    unseen_within: float | None

    def text(self) -> str:
        """In one sentence."""
        told = f"Spearman {self.spearman:.2f} ({self.low:.2f} to {self.high:.2f}) on rows it was not fitted to"
        if self.within is not None:
            told += f", {self.within:.2f} within a source"
        if self.unseen_within is not None:
            told += f", {self.unseen_within:.2f} within a source it had not seen"
        return told


def distil(
    texts: Sequence[str],
    values: Float64[np.ndarray, " n"],
    sources: Sequence[str | None],
    longest: int | None = None,
    seed: int = 0,
    told: Sequence[Told] | None = None,
) -> tuple[Scorer, Held]:
    """A scorer of these values; equal texts count once. `told`: the parts of each value by token, from which it learns much more.

    Raises MethodError for fewer than 20 distinct texts, or values that are all equal.
    """
    order = np.random.default_rng(seed).permutation(_distinct(texts, values, longest))
    rows: list[int] = order.tolist()
    read, y, origin = [texts[k][:longest] for k in rows], values[order], [sources[k] for k in rows]
    found, numbers = ngrams(read), shape(read)
    documents = np.asarray((found > 0).sum(0)).ravel()
    seen = documents >= SHARED
    center, scale = numbers.mean(0), np.maximum(numbers.std(0), 1e-9)
    known, scaled = found.multiply(seen[None]).tocsr(), standard(numbers, center, scale)
    m, unit = min(len(y), MOST), float(y.std())
    kernel = (known[:m] @ known[:m].T).toarray() + scaled[:m] @ scaled[:m].T
    folds, groups = [np.arange(k, m, FOLDS) for k in range(FOLDS)], _groups(origin[:m])
    words = _Words.of(read, y, None if told is None else [told[k] for k in rows], groups)
    left = y - words.said
    ridge = fit(kernel, left[:m] / unit)
    residual = ridge.without(folds) * unit
    apart = ridge.without(groups) * unit + (words.said - words.apart)[:m]
    spread = _spread(kernel, residual, unit, folds)
    strange = _strangeness(found[:m], documents, folds)
    scorer = Scorer(
        words.line,
        _line(ridge, known, scaled, left, unit),
        _line(spread.ridge, known[:m], scaled[:m], residual, 1.0),
        center,
        scale,
        seen,
        spread.smallest,
        spread.largest,
        spread.error,
        spread.half,
        threshold=float(np.quantile(strange, 1 - OUTSIDE, method="higher")),
        shift=_shift(apart, groups),
        longest=longest,
    )
    return scorer, _held(y[:m], residual, apart, origin[:m], groups)


def _distinct(texts: Sequence[str], values: Float64[np.ndarray, " n"], longest: int | None) -> Int64[np.ndarray, " m"]:
    """The first row of each text. Raises MethodError where they are too few, or all worth the same."""
    known: dict[str, int] = {}
    for k, text in enumerate(texts):
        known.setdefault(text[:longest], k)
    first = np.array(list(known.values()), dtype=np.int64)
    worth = len(np.unique(values[first]))
    if len(first) < LEAST or worth == 1:
        raise MethodError(
            f"A scorer was to be fitted to {len(first)} distinct texts of {worth} distinct values; at least {LEAST} texts that "
            "differ in value were expected. Measure more rows (sampled, --sampled)."
        )
    return first


@dataclass(frozen=True, eq=False)
class _Words:
    """The line of words, and what lines fitted without a row's fold, or without its group, say of each row."""

    line: WordLine
    said: Float64[np.ndarray, " n"]
    apart: Float64[np.ndarray, " n"]

    @classmethod
    def of(
        cls,
        texts: Sequence[str],
        y: Float64[np.ndarray, " n"],
        told: Sequence[Told] | None,
        groups: Sequence[Int64[np.ndarray, " _"]],
    ) -> "_Words":
        """Scaled to what left-out rows support, as the line of few rows says too much; nothing where nothing is told."""
        if told is None:
            return cls(WordLine(), np.zeros(len(y)), np.zeros(len(y)))
        lessons = Lessons.of(texts, told)
        said, line = lessons.without([np.arange(k, len(y), FOLDS) for k in range(FOLDS)]), lessons.fit()
        square = float(((said - said.mean()) ** 2).sum())
        share = float(np.clip((said - said.mean()) @ y / square, 0, 1)) if square > 0 else 0.0
        line = WordLine(share * line.mean, (share * line.weights).astype(np.float32))
        return cls(line, share * said, share * lessons.without(groups))


@dataclass(frozen=True)
class _Spread:
    """The regression of log squared errors, the bounds of what it may say, and the factors that make it right."""

    ridge: Ridge
    smallest: float
    largest: float
    error: float
    half: float


def _spread(
    kernel: Float64[np.ndarray, "m m"],
    residual: Float64[np.ndarray, " m"],
    unit: float,
    folds: Sequence[Int64[np.ndarray, " _"]],
) -> _Spread:
    """How large errors are, from out-of-fold errors; judged on what it says of rows that it was not fitted to in turn."""
    difficulty = np.log(residual**2 + (FLOOR * unit) ** 2)
    ridge = fit(kernel, difficulty)
    expected = difficulty - ridge.without(folds)
    smallest, largest = (float(bound) for bound in np.exp(np.quantile(expected, [0.02, 0.98]) / 2))
    ratios = np.abs(residual) / np.clip(np.exp(expected / 2), smallest, largest)
    level = min(1.0, LEVEL * (1 + 1 / len(residual)))
    error, half = np.sqrt(np.mean(ratios**2)), np.quantile(ratios, level, method="higher")
    return _Spread(ridge, smallest, largest, float(error), float(half))


def _line(
    ridge: Ridge, known: Sparse, scaled: Float64[np.ndarray, "n s"], y: Float64[np.ndarray, " n"], unit: float
) -> Line:
    """The fit as weights of n-grams and shape; of all rows, where the ridge knows some of them."""
    coefficients, mean = ridge.coefficients * unit, ridge.mean * unit
    if len(y) > len(coefficients):
        coefficients, mean = _all_rows(known, scaled, y, ridge.alpha)
    grams = np.asarray(known.T @ coefficients).ravel()
    return Line(mean, grams.astype(np.float32), (scaled.T @ coefficients).astype(np.float32))


def _all_rows(
    known: Sparse, scaled: Float64[np.ndarray, "n s"], y: Float64[np.ndarray, " n"], alpha: float
) -> tuple[Float64[np.ndarray, " n"], float]:
    """Coefficients and mean of the same regression by conjugate gradients, the kernel matrix never formed."""
    n, transposed = len(y), known.T.tocsr()

    def product(v: np.ndarray) -> np.ndarray:
        flat = v.ravel()
        return known @ (transposed @ flat) + scaled @ (scaled.T @ flat) + alpha * flat

    solvers = cast(Any, linalg)
    A = solvers.LinearOperator((n, n), matvec=product, dtype=np.float64)
    ones: Float64[np.ndarray, " n"] = solvers.cg(A, np.ones(n), rtol=1e-8, maxiter=500)[0]
    towards: Float64[np.ndarray, " n"] = solvers.cg(A, y, rtol=1e-8, maxiter=500)[0]
    mean = float(towards.sum() / ones.sum())
    return towards - mean * ones, mean


def _groups(sources: Sequence[str | None]) -> list[Int64[np.ndarray, " _"]]:
    """The rows of each source; empty unless there are two sources or more."""
    named = np.array([source if source is not None else "" for source in sources], dtype=object)
    distinct = list(dict.fromkeys(named.tolist()))
    return [np.flatnonzero(named == name) for name in distinct] if len(distinct) > 1 else []


def _strangeness(
    found: Sparse, documents: Int64[np.ndarray, " width"], folds: Sequence[Int64[np.ndarray, " _"]]
) -> Float64[np.ndarray, " n"]:
    """Novelty of each row against the rows of other folds."""
    strange = np.zeros(found.shape[0])
    for fold in folds:
        others = documents - np.asarray((found[fold] > 0).sum(0)).ravel()
        strange[fold] = novelty(found[fold], others >= SHARED)
    return strange


def _shift(apart: Float64[np.ndarray, " n"], groups: Sequence[Int64[np.ndarray, " _"]]) -> float | None:
    """Standard deviation of a left-out source's mean residual, beyond what its rows' own spread explains."""
    if not groups:
        return None
    excess = [apart[g].mean() ** 2 - apart[g].var() / len(g) for g in groups]
    return float(np.sqrt(max(np.mean(excess), 0.0)))


def _held(
    y: Float64[np.ndarray, " n"],
    residual: Float64[np.ndarray, " n"],
    apart: Float64[np.ndarray, " n"],
    sources: Sequence[str | None],
    groups: Sequence[Int64[np.ndarray, " _"]],
) -> Held:
    n, rho = len(y), rank(y, y - residual)
    half = 1.96 * np.sqrt((1 + rho**2 / 2) / (n - 3))  # Fisher's z for ranks, Bonett and Wright 2000
    low, high = (float(np.tanh(np.arctanh(np.clip(rho, -0.9999, 0.9999)) + sign * half)) for sign in (-1, 1))
    large = [g for g in groups if len(g) >= FEW and np.ptp(y[g]) > 0]
    return Held(
        n,
        len(groups) or len({source for source in sources if source is not None}),
        rho,
        low,
        high,
        float(np.mean([rank(y[g], (y - residual)[g]) for g in large])) if large else None,
        rank(y, y - apart) if groups else None,
        float(np.mean([rank(y[g], (y - apart)[g]) for g in large])) if large else None,
    )


def rank(one: Float64[np.ndarray, " n"], other: Float64[np.ndarray, " n"]) -> float:
    """Spearman's correlation; 0 where one of them is constant."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    from scipy import stats  # not at the top: importing assay stays light

    return float(cast(Any, stats).spearmanr(one, other).statistic)
