"""Removal: take each query's top k out, retrain, and see how much worse the query fares.

    change(q) = L_q(all but the top k of q) - L_q(all)

Higher is better: what the method called helpful was missed. Beside the same number of random examples, BM25's and
embeddings' top k, since near copies of the query are found by any of them. Interval: over queries; differences query by query.
Cost: one retraining for each query and method (queries share those that leave out the same rows).
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64

from assay.errors import MethodError
from assay.evaluate.metrics.comparison import Comparison, compare
from assay.evaluate.truth import Truth


def removal(truths: Mapping[str, Truth], seed: int = 0) -> Comparison:
    """From each method's truth, made with `subsets=LeaveTopOut(scores, k)`; the first is compared with the others.

    Raises MethodError: a truth that does not have one subset a query leaving out k each, k the same for all, or truths of
    different data.
    """
    if not truths:
        raise MethodError("No truth was given; give one made with subsets=LeaveTopOut(scores, k) for each method.")
    first = next(iter(truths.values()))
    removed = {int(count) for truth in truths.values() for count in (~truth.masks).sum(1)}
    changes: dict[str, Float64[np.ndarray, " q"]] = {}
    for name, truth in truths.items():
        if (truth.train_ids, truth.query_ids) != (first.train_ids, first.query_ids):
            raise MethodError(
                f"The truths of '{name}' and of the first method are of different data; use the same for all."
            )
        if len(truth) != len(truth.query_ids):
            raise MethodError(
                f"The truth of '{name}' has {len(truth)} subsets for {len(truth.query_ids)} queries; one each was expected. "
                "Make it with subsets=LeaveTopOut(scores, k)."
            )
        changes[name] = np.diagonal(truth.losses) - truth.full
    if len(removed) > 1:
        raise MethodError(
            f"The truths leave out {min(removed)} to {max(removed)} examples; the same number was expected for every method "
            "and query. Score without top=, so that k examples can always be named."
        )
    contributions = {name: values[:, None] for name, values in changes.items()}
    facts = {"k": removed.pop(), "seeds": first.seeds}
    return compare("rise of the query's loss without its top", "nats", contributions, changes, facts, seed)
