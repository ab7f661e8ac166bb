"""Cardinality: do the same few examples answer every query?

    distinct = |union over q of top_k(q)| / min(Q k, n)
    popular  = the share of queries that have the most frequent example in their top k

A method whose top is full of examples with long gradients (hubs) gives every query the same answer: distinct near 1 / Q, popular near
1. A blind draw has `1 - (1 - k / n)^Q` of n distinct examples; `chance` states it in the same unit. A low number is no proof:
queries of one kind may rightly share examples. Interval of `popular`'s counterpart by query: the mean over a query's top k of the
share of *other* queries that have it too (`shared`), lower is better.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from assay.errors import MethodError
from assay.evaluate.metrics.comparison import Comparison, by_method, compare
from assay.evaluate.metrics.ranks import check_same, top_mask
from assay.scores import Scores


def cardinality(results: Scores | Sequence[Scores] | Mapping[str, Scores], k: int = 10, seed: int = 0) -> Comparison:
    """How much of a query's top k other queries have too, for each result; `facts` has `distinct` and `popular`.

    Raises MethodError for a single query, or an empty top.
    """
    named = by_method(results)
    check_same(named)
    n, queries = next(iter(named.values())).train.total, len(next(iter(named.values())).queries)
    if queries < 2:
        raise MethodError("Cardinality compares queries and there is one; give two or more.")
    shared: dict[str, Float64[np.ndarray, " q"]] = {}
    distinct: dict[str, float] = {}
    popular: dict[str, float] = {}
    for name, result in named.items():
        top = top_mask(result, k)
        counts = top.sum(0)
        if not top.any(1).all():
            raise MethodError(
                f"'{name}' has no helpful example for some query, so its top is empty; score without top=."
            )
        shared[name] = (top @ (counts - 1.0)) / top.sum(1) / (queries - 1)
        distinct[name] = float((counts > 0).sum() / min(queries * k, n))
        popular[name] = float(counts.max() / queries)
    chance = n * (1 - (1 - k / n) ** queries) / min(queries * k, n)
    facts = {"k": k, "distinct": distinct, "popular": popular, "chance": chance}
    contributions = {name: values[:, None] for name, values in shared.items()}
    what = f"share of other queries that have the same top {k}"
    return compare(what, "share", contributions, shared, facts, seed, higher=False)
