"""Two stages in one call: a cheap method finds candidates, an exact one scores them.

Candidates are the N best of each query by the cheap method, joined, and a random slice of all training examples. The exact method is
fitted to all training examples and scores the candidates only. The slice was chosen by nobody, so that the share of its
members of a query's top k that the cheap method had found by itself estimates the prefilter's recall (Grosse et al. 2023,
2308.03296, section 3.2.1, check their TF-IDF filter with a random sample in the same way).
"""

from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import betaincinv

from assay.errors import MethodError, nearest
from assay.examples import Examples
from assay.methods.base import Fitted, Method
from assay.methods.gradient.gradcos import GradCos
from assay.methods.gradient.live import Live
from assay.methods.lexical.bm25 import BM25
from assay.methods.lexical.embedding import Embedding
from assay.methods.lexical.tfidf import TFIDF
from assay.provenance import measured
from assay.ranking import TopK
from assay.scores import Scores
from assay.tables import Table

CHEAP: dict[str, type[Method]] = {"bm25": BM25, "tfidf": TFIDF, "embedding": Embedding}
SLICE = 1000
"""Training examples in the random slice, at most."""
SHARE = 0.1
"""Of the training examples in the slice, at most, so that it stays small beside a small training set."""
TOP = 100
"""Rank down to which recall is counted, unless fewer are kept."""


@dataclass(frozen=True)
class Prefilter:
    """A cheap method, how many it keeps of each query's best, and how it was written."""

    method: Method
    keep: int
    text: str


def parse_prefilter(text: str) -> Prefilter:
    """`bm25:N`, `tfidf:N`, `embedding:N` or `factored:RANK:N`. Raises MethodError."""
    name, *numbers = text.split(":")
    known = (*CHEAP, "factored")
    if name not in known:
        raise MethodError(f"There is no prefilter '{name}'. {nearest(name, known)}")
    if len(numbers) != (2 if name == "factored" else 1) or not all(n.isdecimal() and int(n) > 0 for n in numbers):
        raise MethodError(
            f"The prefilter '{text}' cannot be read; write {name}:{'16:' if name == 'factored' else ''}1000, the number being "
            "how many of each query's best are kept."
        )
    method = GradCos(compression=f"factored:{numbers[0]}") if name == "factored" else CHEAP[name]()
    return Prefilter(method, int(numbers[-1]), text)


def two_stage(
    fitted: Fitted, prefilter: Prefilter, model: Any, train: Examples, queries: Examples, top: int | None = None
) -> Scores:
    """The best and worst candidates of each query, `top` at each end (by default 100), with exact scores by a method that
    is fitted to all training examples.

    Raises MethodError for a method that has no exact gradients to save.
    """
    if not isinstance(fitted, Live):
        raise MethodError(
            "A prefilter saves exact gradients, and this method with these parameters takes none, or stores compressed ones of "
            "all training examples. Leave it out, or take a gradient method without compression, such as ekfac."
        )
    with measured(fitted.seconds) as cost:
        found = _found(prefilter, model, train, queries)
        random = np.zeros(len(train), bool)
        random[_slice(len(train), fitted.method.seed)] = True
        rows = np.flatnonzero(found | random)
        scores, about = fitted.some(queries, rows)
        kept = top or TOP
        entries = TopK.of_columns((_spread(column, rows, len(train)) for column in scores.T), kept)
    note = told(scores, found[rows], random[rows], min(kept, TOP), prefilter.text)
    provenance = fitted.provenance(queries, about, cost)
    provenance = replace(
        provenance,
        inputs={**provenance.inputs, "prefilter": prefilter.text},
        notes=(*provenance.notes, f"Exact scores for {len(rows):,} of {len(train):,} training examples. {note}"),
    )
    return Scores.of(entries, train, Table.of(queries, loss=about.losses), provenance)


def told(
    scores: Float[np.ndarray, "m q"], found: Bool[np.ndarray, " m"], random: Bool[np.ndarray, " m"], k: int, name: str
) -> str:
    """The recall on the slice: of its rows that are helpful and among the k best exact scores of a query, how many the
    prefilter had found; a sentence.
    """
    k = min(k, len(scores))
    least = np.partition(scores, len(scores) - k, axis=0)[len(scores) - k]
    belongs = (scores >= np.maximum(least, np.finfo(np.float32).tiny)) & random[:, None]
    there, hit = int(belongs.sum()), int((belongs & found[:, None]).sum())
    if not there:
        return f"No row of the random slice is among a query's top {k}, so the recall of {name} could not be measured."
    low, high = interval(hit, there)
    return (
        f"Of the random slice {there} pairs of example and query are in the query's top {k}; {name} had found {hit} of them: "
        f"recall {hit / there:.0%} (95% interval {low:.0%} to {high:.0%})."
    )


def interval(hit: int, there: int) -> tuple[float, float]:
    """Clopper and Pearson's 95% interval of a share."""
    low = 0.0 if hit == 0 else float(betaincinv(hit, there - hit + 1, 0.025))
    high = 1.0 if hit == there else float(betaincinv(hit + 1, there - hit, 0.975))
    return low, high


def _found(prefilter: Prefilter, model: Any, train: Examples, queries: Examples) -> Bool[np.ndarray, " n"]:
    """Which rows are among the best of any query."""
    best = prefilter.method.fit(model, train).score(queries, top=min(prefilter.keep, len(train)))
    entries = cast(TopK, best.entries)
    found = np.zeros(len(train), bool)
    for query in range(len(queries)):
        found[entries.side(query, +1)[0]] = True
    return found


def _slice(rows: int, seed: int) -> Int[np.ndarray, " s"]:
    """Random rows, drawn by the seed."""
    count = min(SLICE, max(1, int(SHARE * rows)))
    return np.random.default_rng((seed, 77)).choice(rows, count, replace=False)


def _spread(column: Float[np.ndarray, " m"], rows: Int[np.ndarray, " m"], total: int) -> Float[np.ndarray, " n"]:
    """Zero, which is neither helpful nor harmful, for rows that were not scored."""
    whole = np.zeros(total, np.float32)
    whole[rows] = column
    return whole
