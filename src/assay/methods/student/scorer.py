"""A scorer: values of texts from their n-grams alone, each with its error, and whether the text is of a kind that it has seen.

    value(x) = v . f + mean + w . x     stderr(x) = r s(x)     interval(x) = value(x) -+ q s(x),   s(x) = exp((m + u . x) / 2)

`f` is the mean of what its words say one by one (`pieces`), `x` are hashed n-grams and shape (`ngrams`). `v` is a ridge regression on the
parts of values by token, `w` one on what that leaves of values that the model measured, `u` one on the logarithm of its squared
out-of-fold errors, `r` and `q` make the errors right on average, and the intervals in 90% of the out-of-fold rows (conformal
prediction normalised by difficulty, Lei et al. 2018, section 5.2). A text is in the domain unless it is stranger than 99% of the rows
the scorer was fitted to, each against the others.

A scorer holds sums over rows, no row: an n-gram that stands in one row of the sample alone has no weight and counts as unseen.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64

from assay.methods.student.ngrams import Sparse, ngrams, novelty, shape, standard
from assay.methods.student.pieces import WordLine

BLOCK = 2048
"""Texts looked at together."""
LEVEL = 0.9
"""Share of values that intervals are meant to hold."""


@dataclass(frozen=True, eq=False)
class Predicted:
    """What a scorer says of texts, [n] each: values, standard errors, both ends of the interval, novelty from 0 to 1, and whether
    that is within what the scorer has seen.
    """

    value: Float64[np.ndarray, " n"]
    stderr: Float64[np.ndarray, " n"]
    low: Float64[np.ndarray, " n"]
    high: Float64[np.ndarray, " n"]
    novelty: Float64[np.ndarray, " n"]
    in_domain: Bool[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.value)

    @classmethod
    def joined(cls, parts: Sequence["Predicted"]) -> "Predicted":
        """One behind the other."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


@dataclass(frozen=True, eq=False)
class Line:
    """`mean + grams . x + numbers . shape`: a linear function of n-grams and of scaled shape."""

    mean: float
    grams: Float32[np.ndarray, " width"]
    numbers: Float32[np.ndarray, " s"]

    def __call__(self, found: Sparse, scaled: Float64[np.ndarray, "n s"]) -> Float64[np.ndarray, " n"]:
        """For every row, in float64."""
        return self.mean + found @ self.grams.astype(np.float64) + scaled @ self.numbers.astype(np.float64)


@dataclass(frozen=True, eq=False)
class Scorer:
    """Made by `distil`, kept by `save_scorer`.

    `words`, `value` and `log_square` are the three regressions, `center` and `scale` those of shape, `seen` the buckets that two rows
    or more have filled. `smallest`, `largest`: bounds of s. `error`, `half`: the factors r and q. `threshold`: of novelty. `shift`:
    standard deviation of the mean error of a whole source that it had not seen; None where the sample had no sources. `longest`:
    characters that are read of a text; None: all. `about` says in JSON values where it comes from and how good it is.
    """

    words: WordLine
    value: Line
    log_square: Line
    center: Float64[np.ndarray, " s"]
    scale: Float64[np.ndarray, " s"]
    seen: Bool[np.ndarray, " width"]
    smallest: float
    largest: float
    error: float
    half: float
    threshold: float
    shift: float | None = None
    longest: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def predict(self, texts: Iterable[str]) -> Predicted:
        """Values of texts, in bounded memory; at least one."""
        rest, parts = iter(texts), list[Predicted]()
        while block := list(islice(rest, BLOCK)):
            parts.append(self._block(block))
        return Predicted.joined(parts)

    def _block(self, texts: Sequence[str]) -> Predicted:
        read = [text[: self.longest] for text in texts]
        found, scaled = ngrams(read), standard(shape(read), self.center, self.scale)
        strange = novelty(found, self.seen)
        value = self.words(read) + self.value(found, scaled)
        spread = np.clip(np.exp(self.log_square(found, scaled) / 2), self.smallest, self.largest)
        half = self.half * spread
        return Predicted(value, self.error * spread, value - half, value + half, strange, strange <= self.threshold)
