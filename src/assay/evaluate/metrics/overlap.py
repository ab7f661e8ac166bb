"""Overlap: how many of each query's top k two results share.

    overlap(q) = |top_k(a, q) and top_k(b, q)| / k

Between methods it says whether they find the same examples; between runs of one method under other seeds, damping or
resampled data it is its *stability*. Two rankings that know nothing of each other share k / n. Interval: over queries.
Cost: one selection a query and result, as whole matrices.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from assay.errors import MethodError
from assay.evaluate.metrics.comparison import Comparison, by_method, compare
from assay.evaluate.metrics.ranks import check_same, top_mask
from assay.scores import Scores


def overlap(
    reference: Scores, results: Scores | Sequence[Scores] | Mapping[str, Scores], k: int = 10, seed: int = 0
) -> Comparison:
    """The share of the reference's top k that each result has in its own. Raises MethodError for other data."""
    named = by_method(results)
    check_same({"the reference": reference, **named})
    theirs = top_mask(reference, k)
    shares = {name: (theirs & top_mask(result, k)).sum(1) / k for name, result in named.items()}
    facts = {"k": k, "chance": k / reference.train.total}
    contributions = {name: share[:, None] for name, share in shares.items()}
    return compare(f"share of the top {k} in common", "share", contributions, shares, facts, seed)


def stability(results: Sequence[Scores], k: int = 10) -> Float64[np.ndarray, " q"]:
    """Mean overlap of all pairs of results of one method under other seeds, for each query; 1: always the same.

    With counts c_i of the R results that have i in their top k, the pairs share `sum of c_i (c_i - 1) / 2`.
    """
    if len(results) < 2:
        raise MethodError(f"Stability compares results and {len(results)} was given; give two or more.")
    check_same({str(position): result for position, result in enumerate(results)})
    counts = np.zeros((len(results[0].queries), results[0].train.total), dtype=np.int64)
    for result in results:
        counts += top_mask(result, k)
    pairs = len(results) * (len(results) - 1) / 2
    return (counts * (counts - 1) / 2).sum(1) / (pairs * k)
