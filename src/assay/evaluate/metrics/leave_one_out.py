"""Leave-one-out correlation: do scores rank single examples as retraining without each of them does?

    true(i, q) = L_q(all but i) - L_q(all)
    correlation(q) = Spearman over the left-out i of (score(i, q), true(i, q))

and the mean over queries; `facts["pearson"]` has Pearson's, `facts["slope"]` the least-squares slope of true on score (1 where a
score in nats is calibrated). One example moves the loss little, often less than another seed would: look at `between_seeds` and
the ceiling (see `lds`), and prefer subsets where it is low. Interval: two-way over queries and left-out examples, as in `lds`.
Cost: q m^2.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from assay.errors import MethodError
from assay.evaluate.metrics.comparison import Comparison, by_method, compare
from assay.evaluate.metrics.lds import LEAST, ceiling, check_varied, pseudo_values, spearman
from assay.evaluate.truth import Truth, check_aligned
from assay.scores import Scores


def leave_one_out(results: Scores | Sequence[Scores] | Mapping[str, Scores], truth: Truth, seed: int = 0) -> Comparison:
    """Correlation with leave-one-out truth (`truth(..., subsets=LeaveOneOut())`) for each result.

    Raises MethodError: other ids than the truth's, a truth that does not leave out one each, fewer than 8 left out, or
    constant scores or changes for a query.
    """
    named = by_method(results)
    if not (truth.masks.sum(1) == truth.masks.shape[1] - 1).all() or len(truth) < LEAST:
        raise MethodError(
            f"The truth '{truth.family}' has {len(truth)} subsets; {LEAST} or more that leave out one example each were "
            "expected. Make it with subsets=LeaveOneOut()."
        )
    left_out = (~truth.masks).argmax(1)
    true = truth.losses - truth.full
    check_varied(true, truth.query_ids, "The changes by leaving one out")
    contributions: dict[str, Float64[np.ndarray, "q m"]] = {}
    per_query: dict[str, Float64[np.ndarray, " q"]] = {}
    lines: dict[str, Any] = {"pearson": {}, "slope": {}}
    for name, scores in named.items():
        check_aligned(truth, scores.train_ids, scores.query_ids, f"The result '{name}'")
        given = scores.array[left_out].astype(np.float64)
        check_varied(given, truth.query_ids, f"The scores of '{name}'")
        per_query[name], contributions[name] = spearman(given, true), pseudo_values(given, true)
        lines["pearson"][name], lines["slope"][name] = _line(given, true)
    changes = truth.runs - truth.full_runs[:, None]
    facts = {"left_out": len(truth), "seeds": truth.seeds, **ceiling(changes), **lines}
    return compare("leave-one-out correlation", "Spearman correlation", contributions, per_query, facts, seed)


def _line(x: Float[np.ndarray, "m q"], y: Float[np.ndarray, "m q"]) -> tuple[float, float]:
    """Mean over queries of Pearson's correlation and of the slope of y on x."""
    a, b = x - x.mean(0), y - y.mean(0)
    both = (a * b).sum(0)
    return float((both / np.sqrt((a * a).sum(0) * (b * b).sum(0))).mean()), float((both / (a * a).sum(0)).mean())
