"""Ranks of whole matrices at once: the top k of every query, ranks from the best, and what cannot be ranked."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64

from assay.errors import MethodError
from assay.ranking import NONE, TopK
from assay.scores import Scores

FEW = 16


def top_mask(scores: Scores, k: int) -> Bool[np.ndarray, "q n"]:
    """Which training examples are among the `k` that score highest for each query; equal scores in order of row.

    A dense result always has k; a top-k result may hold fewer above zero. Raises MethodError for k out of range.
    """
    n = scores.train.total
    if not 1 <= k <= n:
        raise MethodError(f"The top k={k} of {n} training examples was asked for; give k between 1 and {n}.")
    if isinstance(scores.entries, TopK):
        if scores.entries.k < k:
            raise MethodError(
                f"'{scores.method}' holds the {scores.entries.k} best of each query; give k of at most that."
            )
        chosen = np.zeros((len(scores.queries), n + 1), dtype=np.bool_)  # the last column takes what is empty
        rows = scores.entries.helpful_rows[:, :k]
        np.put_along_axis(chosen, np.where(rows == NONE, n, rows), True, axis=1)
        return chosen[:, :n]
    values = np.array(scores.array.T, order="C")  # a copy: PyTorch takes no read-only array
    least = torch.topk(torch.from_numpy(values), k, dim=1).values[:, -1:].numpy()
    chosen = values >= least
    for q in np.flatnonzero(chosen.sum(1) > k):  # of what ties with the last, the first rows
        tied = np.flatnonzero(values[q] == least[q])
        chosen[q, tied[k - int((values[q] > least[q]).sum()) :]] = False
    return chosen


def ranks_of(values: Float[np.ndarray, " n"], some: Float[np.ndarray, " m"]) -> Float64[np.ndarray, " m"]:
    """Ranks of `some` of the values among all, 1 for the highest; ties share their mean rank. Cost: counts for a few, else one sort."""
    if len(some) <= FEW:
        above = np.array([np.count_nonzero(values > one) for one in some])
        at_least = np.array([np.count_nonzero(values >= one) for one in some])
        return (above + at_least + 1) / 2
    ordered = np.sort(values)
    below, upto = np.searchsorted(ordered, some, "left"), np.searchsorted(ordered, some, "right")
    return len(values) - upto + (upto - below + 1) / 2


def check_ranked_columns(values: Float[np.ndarray, "n q"], query_ids: Sequence[str], what: str) -> None:
    """Raise MethodError for a query whose scores are all alike: they rank nothing."""
    constant = values.max(0) == values.min(0)
    if constant.any():
        first = int(constant.argmax())
        raise MethodError(
            f"{what} gives every training example the same score for the query {query_ids[first]!r} "
            f"({int(constant.sum())} such queries), which ranks nothing. Leave these queries out, or look at the method."
        )


def check_same(results: dict[str, Scores]) -> None:
    """Raise MethodError unless all results are of the same training examples and queries, in the same order."""
    (first, one), *others = results.items()
    for name, other in others:
        same = list(one.query_ids) == list(other.query_ids) and one.train.total == other.train.total
        if not same or (one.train.whole and other.train.whole and list(one.train_ids) != list(other.train_ids)):
            raise MethodError(
                f"'{first}' and '{name}' are of different training examples or queries; compare results on the same data."
            )
