"""What the model says of a text token by token, learnt by the pieces of the text: words, digits, signs, line ends, indents.

A row's value is a mean over its tokens, and the model can tell each token's part. So every piece of a row teaches, not the row
alone:  y_j = W sum of the parts of the tokens that end in piece j,  W the row's pieces, so that the mean of y_j is the row's value.

    y_j = mean + w . f_j           f_j: hashed, the piece, what stands before it, how it is written, whether it stood there before

by ridge regression over all pieces (conjugate gradients, never a matrix of pieces by pieces). A row's value is then `mean + w . f`, with
f the mean of its f_j: linear in the row, as `ngrams` is.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import log2
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from scipy import sparse
from scipy.sparse import linalg

PIECE = re.compile(r"(?:\r?\n)+|\t+| {2,}|[^\W\d_]+|\d|[^\w\s]|_")
WIDTH = 2**17
"""Buckets of hashed features."""
ALPHA = 10.0
"""Of the ridge: the ratio of a piece's noise to what a feature is expected to say. From 3 to 30 it makes little difference."""
SPECIFICATION = "pieces-1"
"""Of pieces and features; another specification is another scorer."""
SHARED = 2
"""Rows that a feature must stand in to be seen."""

Sparse = Any
"""A scipy matrix of one row a piece, or a text."""


@dataclass(frozen=True)
class Told:
    """The parts of a row's value by token: where in the text each token ends, and its part. The parts sum to the value."""

    ends: Int64[np.ndarray, " t"]
    parts: Float64[np.ndarray, " t"]


@dataclass(frozen=True, eq=False)
class WordLine:
    """`mean + weights . f`, with f the mean over a text's pieces; a text without pieces is worth the mean. By itself: 0."""

    mean: float = 0.0
    weights: Float32[np.ndarray, " width"] = field(default_factory=lambda: np.zeros(WIDTH, np.float32))

    def __call__(self, texts: Sequence[str]) -> Float64[np.ndarray, " n"]:
        """For every text, in float64."""
        features, row = described([[piece for piece, _ in pieces(text)] for text in texts])
        return self.mean + means(features @ self.weights.astype(np.float64), row, len(texts))


@dataclass(frozen=True, eq=False)
class Lessons:
    """What the pieces of n rows teach: features, row and `y_j` of each that the model has read."""

    n: int
    features: Sparse
    row: Int64[np.ndarray, " pieces"]
    y: Float64[np.ndarray, " pieces"]

    @classmethod
    def of(cls, texts: Sequence[str], told: Sequence[Told]) -> "Lessons":
        """Of rows of which the model has told the parts."""
        found = [list(pieces(text[: int(max(one.ends))])) for text, one in zip(texts, told, strict=True)]
        y: list[Float64[np.ndarray, " w"]] = [np.zeros(0)]
        for one, words in zip(told, found, strict=True):
            if words:
                at = np.searchsorted([end for _, end in words], one.ends).clip(max=len(words) - 1)
                y.append(len(words) * np.bincount(at, one.parts, len(words)))
        features, row = described([[x for x, _ in words] for words in found])
        return cls(len(texts), features, row, np.concatenate(y))

    def fit(self) -> WordLine:
        """The line of all rows."""
        mean, weights = _ridge(self.features, self.row, self.y)
        return WordLine(mean, weights.astype(np.float32))

    def without(self, folds: Iterable[Int64[np.ndarray, " _"]]) -> Float64[np.ndarray, " n"]:
        """What a line fitted without a row's fold says of the row; 0 for rows that are in none."""
        said = np.zeros(self.n)
        for fold in folds:
            others = ~np.isin(self.row, fold)
            mean, weights = _ridge(self.features[others], self.row[others], self.y[others])
            said[fold] = (mean + means(self.features @ weights, self.row, self.n))[fold]
        return said


def pieces(text: str) -> Iterator[tuple[str, int]]:
    """Each piece and where it ends."""
    return ((found.group().replace("\r", ""), found.end()) for found in PIECE.finditer(text))


def described(texts: Sequence[Sequence[str]]) -> tuple[Sparse, Int64[np.ndarray, " pieces"]]:
    """Counts of hashed features, CSR [pieces of all texts, WIDTH], and the text of each piece."""
    from sklearn.feature_extraction import FeatureHasher

    hasher = cast(Any, FeatureHasher)(WIDTH, input_type="string", alternate_sign=False)
    lengths = np.array([len(words) for words in texts], dtype=np.int64)
    row = np.repeat(np.arange(len(texts)), lengths)
    if not len(row):
        return sparse.csr_matrix((0, WIDTH)), row
    return hasher.transform(features for words in texts for features in _features(words)), row


def means(each: Float64[np.ndarray, " pieces"], row: Int64[np.ndarray, " pieces"], n: int) -> Float64[np.ndarray, " n"]:
    """Mean over the pieces of every text; 0 for one without pieces."""
    return np.bincount(row, each, n) / np.maximum(np.bincount(row, minlength=n), 1)


def _features(words: Sequence[str]) -> Iterator[list[str]]:
    """What is known of each piece in its place."""
    before: list[str] = ["<s>", "<s>"]
    known = set[str]()
    for k, x in enumerate(words):
        q, p = before
        form, again = _form(x), "again" if x in known else "new"
        yield [
            f"w={x}", f"l={x.lower()}", f"p={p}", f"q={q}", f"b={p}|{x}", f"t={q}|{p}|{x}", f"s={form}", f"sp={_form(p)}|{form}",
            f"n={min(len(x), 12)}", f"k={min(int(log2(k + 1) * 2), 12)}", again, f"{again}={form}",
            *(f"<{x[:n]}" for n in (2, 3)), *(f"{x[-n:]}>" for n in (2, 3)), *(f"c={x[a : a + 3]}" for a in range(len(x) - 2)),
        ]  # fmt: skip
        before = [p, x]
        known.add(x)


def _form(x: str) -> str:
    """How a piece is written: small letters as one, each capital, other signs as they are."""
    return re.sub(r"[a-z]+", "a", re.sub(r"[A-Z]", "A", x))[:6]


def _ridge(
    features: Sparse, row: Int64[np.ndarray, " pieces"], y: Float64[np.ndarray, " pieces"]
) -> tuple[float, Float64[np.ndarray, " width"]]:
    """Mean and weights; 0 for features that fewer than two rows have, and where there is no piece."""
    if not len(y):
        return 0.0, np.zeros(int(features.shape[1]))
    columns = np.flatnonzero(_shared(features, row))
    A = features[:, columns].astype(np.float64)
    transposed, mean, unit = A.T.tocsr(), float(y.mean()), float(y.std()) or 1.0
    n = len(columns)

    def product(v: np.ndarray) -> np.ndarray:
        return transposed @ (A @ v.ravel()) + ALPHA * v.ravel()

    solvers = cast(Any, linalg)
    system = solvers.LinearOperator((n, n), matvec=product, dtype=np.float64)
    weights: Float64[np.ndarray, " width"] = np.zeros(int(features.shape[1]))
    weights[columns] = unit * solvers.cg(system, transposed @ ((y - mean) / unit), rtol=1e-5, maxiter=300)[0]
    return mean, weights


def _shared(features: Sparse, row: Int64[np.ndarray, " pieces"]) -> Bool[np.ndarray, " width"]:
    """Features that two rows or more have."""
    rows = sparse.csr_matrix((np.ones(len(row)), (row, np.arange(len(row)))))
    return np.asarray(((rows @ features) > 0).sum(0)).ravel() >= SHARED
