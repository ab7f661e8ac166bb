"""Agreement: how often do the top-ranked examples come from the query's own source (topic, label)?

    share(q) = |{i in top k of q : source_i = source_q}| / k

A cheap stand-in for truth where sources are known: an example that taught the model a sentence is likely, not certain,
to come from its source. Intervals: 95%, bootstrap over queries.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from assay.errors import MethodError
from assay.evaluate.intervals import bootstrap_mean
from assay.evaluate.one_step import best_rows, check_ranked, check_scored
from assay.examples import Examples
from assay.scores import Scores


def agreement(
    train: Examples, queries: Examples, results: Sequence[Scores], k: int = 10, seed: int = 0
) -> dict[str, Any]:
    """Evidence: mean share of the top k with the query's source, for each result, and the share expected by chance.

    Queries without a source are left out. Where a top-k result holds fewer than k examples above zero, the rest count
    as of another source. Returns `{"k", "unit", "rows": [{"set", "mean", "low", "high", "n"}, ...], "chance", "text"}`.

    Raises MethodError if no query has a source, or for scores of other examples.
    """
    check_ranked(k, len(train))
    known = [q for q in range(len(queries)) if queries.sources[q] is not None]
    if not known:
        raise MethodError("Agreement compares sources, and no query has one; add a field 'source' to the queries.")
    theirs = list(queries.sources)
    source = list(train.sources)
    rows: list[dict[str, Any]] = []
    for result in results:
        check_scored(result, train, queries)
        best = best_rows(result, k)
        shares = np.array([sum(source[row] == theirs[q] for row in best[q]) / k for q in known])
        mean, low, high = bootstrap_mean(shares, seed)
        rows.append({"set": f"{result.method} top {k}", "mean": mean, "low": low, "high": high, "n": len(known)})
    count = Counter(source)
    chance = sum(count[theirs[q]] for q in known) / (len(known) * len(train))
    rows.append({"set": "chance", "mean": chance, "low": chance, "high": chance, "n": len(known)})
    text = "; ".join(f"{row['set']}: {row['mean']:.0%}" for row in rows)
    return {
        "k": k,
        "unit": "share of the top with the query's source",
        "rows": rows,
        "chance": chance,
        "text": f"{text}.",
    }
