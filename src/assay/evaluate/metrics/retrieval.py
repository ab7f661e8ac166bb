"""Retrieval: are the examples that are known to matter ranked first?

With `relevant[i, q]`, ranks from the highest score (ties share their mean rank):

    average precision(q) = mean over relevant i of  |{relevant j with score >= score_i}| / |{j with score >= score_i}|
    reciprocal rank(q)   = 1 / rank of the best relevant example;            its mean over queries is the MRR
    recall at k (q)      = the share of the relevant examples whose rank is at most k

`planted`: average precision for examples planted with a shortcut or a poison, whose queries carry the trigger (Khaddaj et al. 2022;
0.5 is not chance: the share of planted examples is). `tracing`: MRR and recall for facts and the examples that state them (Akyurek
et al. 2022; Chang et al. 2024). Interval: over queries. Cost: one sort a query. Constant scores are refused, as they would get the
rank n / 2 that nobody gave.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64

from assay.errors import MethodError
from assay.evaluate.metrics.comparison import Comparison, by_method, compare
from assay.evaluate.metrics.ranks import check_ranked_columns, check_same, ranks_of
from assay.scores import Scores

Relevant = Bool[np.ndarray, "n q"]


def planted(results: Scores | Sequence[Scores] | Mapping[str, Scores], planted: Any, seed: int = 0) -> Comparison:
    """Average precision of each result for planted examples: `planted` bool [n] for all queries, or [n, q].

    Raises MethodError: a mask of another shape, a query with no planted example or with nothing else, constant scores.
    """
    named, relevant = _checked(results, planted)
    values = {name: average_precision(result.array, relevant) for name, result in named.items()}
    facts = {"chance": float(relevant.mean()), "planted": float(relevant.sum(0).mean())}
    return _compared("average precision", values, facts, seed)


def tracing(
    results: Scores | Sequence[Scores] | Mapping[str, Scores], relevant: Any, k: int = 50, seed: int = 0
) -> dict[str, Comparison]:
    """`{"mrr": ..., "recall": ...}` of each result for the examples that state each query's fact, bool [n, q].

    Raises MethodError as `planted` does, and for k out of range.
    """
    named, truth = _checked(results, relevant)
    if not 1 <= k <= len(truth):
        raise MethodError(f"Recall at k={k} of {len(truth)} examples was asked for; give k between 1 and {len(truth)}.")
    reciprocal: dict[str, Float64[np.ndarray, " q"]] = {}
    recall: dict[str, Float64[np.ndarray, " q"]] = {}
    for name, result in named.items():
        columns = list(zip(np.ascontiguousarray(result.array.T), np.ascontiguousarray(truth.T), strict=True))
        reciprocal[name] = np.array([reciprocal_rank(column, relevant) for column, relevant in columns])
        recall[name] = np.array(
            [float((ranks_of(column, column[relevant]) <= k).mean()) for column, relevant in columns]
        )
    facts = {"relevant": float(truth.sum(0).mean())}
    return {
        "mrr": _compared("mean reciprocal rank", reciprocal, facts, seed),
        "recall": _compared(f"recall at {k}", recall, facts | {"k": k, "chance": k / len(truth)}, seed),
    }


def reciprocal_rank(scores: Float[np.ndarray, " n"], relevant: Bool[np.ndarray, " n"]) -> float:
    """1 / rank of the best relevant example of one query."""
    return float(1 / ranks_of(scores, scores[relevant].max(keepdims=True))[0])


def average_precision(scores: Float[np.ndarray, "n q"], relevant: Relevant) -> Float64[np.ndarray, " q"]:
    """Average precision of each column; a group of equal scores counts as a whole."""
    from scipy import stats  # not at the top: importing assay stays light

    at_least = stats.rankdata(-scores, method="max", axis=0)  # how many score at least as high
    order = np.argsort(-scores, axis=0, kind="stable")
    hits = np.cumsum(np.take_along_axis(relevant, order, 0), axis=0)
    hits_at_least = np.take_along_axis(hits, at_least.astype(np.int64) - 1, 0)
    return (hits_at_least / at_least * relevant).sum(0) / relevant.sum(0)


def _checked(results: Any, relevant: Any) -> tuple[dict[str, Scores], Relevant]:
    named = by_method(results)
    check_same(named)
    n, q = next(iter(named.values())).array.shape
    given = np.asarray(relevant)
    if given.dtype != np.bool_ or given.shape not in ((n,), (n, q)):
        raise MethodError(
            f"Which examples are relevant was given as {given.dtype} of shape {given.shape}; a bool array [{n}] or "
            f"[{n}, {q}] was expected, in the order of the training examples."
        )
    mask = np.broadcast_to(given[:, None] if given.ndim == 1 else given, (n, q))
    none = ~mask.any(0) | mask.all(0)
    if none.any():
        raise MethodError(
            f"{int(none.sum())} of {q} queries have no relevant example, or no other one, the first at position "
            f"{int(none.argmax())}; leave them out."
        )
    for name, result in named.items():
        check_ranked_columns(result.array, result.query_ids, f"'{name}'")
    return named, mask


def _compared(
    metric: str, values: dict[str, Float64[np.ndarray, " q"]], facts: dict[str, Any], seed: int
) -> Comparison:
    return compare(metric, "share", {name: v[:, None] for name, v in values.items()}, values, facts, seed)
