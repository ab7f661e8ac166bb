"""Linear datamodeling score: do sums of scores predict the losses of models retrained on random subsets?

    predicted[j, q] = sum over i in S_j of score(i, q)
    LDS(q) = Spearman over subsets j of (predicted[j, q], -losses[j, q])

and the mean over queries (Park et al. 2023, TRAK, definition 2.3; there with model outputs, here with the loss, negated, as a
higher score means a lower loss). 1: the sums rank the subsets as retraining does. 0: they say nothing. Ties share their
mean rank; sums that differ by rounding only count as ties.

**Ceiling.** A retraining has noise of its own, its seed's. With S >= 2 seeds a subset, r the mean Spearman correlation between the
losses of two seeds, the mean over S seeds has reliability R = S r / (1 + (S - 1) r) (Spearman-Brown), and even the expected
loss, known exactly, correlates with it by about sqrt(R) only: the ceiling. One seed: unknown.

**Interval.** Jackknife pseudo-values by query and subset, `rho + (m - 1) (rho - rho without j)`, whose mean is the metric
less its bias of order 1/m; the two-way interval of these (see `intervals`). Differences subtract pseudo-values. In float64. Cost:
sums n m q; pseudo-values q m^2.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Float64

from assay.errors import MethodError
from assay.evaluate.metrics.comparison import Comparison, by_method, compare
from assay.evaluate.truth import Truth, check_aligned
from assay.scores import Scores

LEAST = 8
"""Subsets below which a rank correlation is not worth a number."""
ROUNDING = 1e-12
"""Differences below this share of the sum of the scores' absolute values are rounding."""
AT_ONCE = 2**22
"""Numbers of one block of pseudo-values."""


def lds(results: Scores | Sequence[Scores] | Mapping[str, Scores], truth: Truth, seed: int = 0) -> Comparison:
    """The linear datamodeling score of each result, and the paired difference of the first to the others.

    Raises MethodError: other ids than the truth's, fewer than 8 subsets, or constant sums or losses for a query, whose
    correlation does not exist; InputError for a top-k result, which lacks most scores.
    """
    named = by_method(results)
    if len(truth) < LEAST:
        raise MethodError(f"The truth has {len(truth)} subsets; a rank correlation needs {LEAST}. Retrain on more.")
    contributions: dict[str, Float64[np.ndarray, "q m"]] = {}
    per_query: dict[str, Float64[np.ndarray, " q"]] = {}
    losses = -truth.losses
    for name, scores in named.items():
        check_aligned(truth, scores.train_ids, scores.query_ids, f"The result '{name}'")
        predicted = predictions(scores.array, truth)
        check_varied(predicted, truth.query_ids, f"The predictions of '{name}'")
        check_varied(losses, truth.query_ids, "The retrained losses")
        per_query[name] = spearman(predicted, losses)
        contributions[name] = pseudo_values(predicted, losses)
    facts = {"subsets": len(truth), "seeds": truth.seeds, "family": truth.family, **ceiling(truth.runs)}
    return compare("linear datamodeling score", "Spearman correlation", contributions, per_query, facts, seed)


def predictions(scores: Float[np.ndarray, "n q"], truth: Truth) -> Float64[np.ndarray, "m q"]:
    """Sums of the scores over each subset, in steps of the rounding error."""
    scores = scores.astype(np.float64)
    sums = truth.masks.astype(np.float64) @ scores
    step = ROUNDING * np.abs(scores).sum(0)
    return np.where(step > 0, np.round(sums / np.where(step > 0, step, 1.0)) * step, 0.0)


def spearman(x: Float[np.ndarray, "m q"], y: Float[np.ndarray, "m q"]) -> Float64[np.ndarray, " q"]:
    """Spearman's correlation of each pair of columns, with mean ranks for ties; NaN where one is constant."""
    from scipy import stats  # not at the top: importing assay stays light

    a, b = (stats.rankdata(values, axis=0) - (len(x) + 1) / 2 for values in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(0) / np.sqrt((a * a).sum(0) * (b * b).sum(0))


def pseudo_values(x: Float[np.ndarray, "m q"], y: Float[np.ndarray, "m q"]) -> Float64[np.ndarray, "q m"]:
    """`m rho - (m - 1) rho without j` for every column and row j, with exact mean ranks of what is left.

    Raises MethodError where without one row nothing varies.
    """
    m, queries = x.shape
    whole = spearman(x, y)
    found = np.empty((queries, m))
    columns = max(AT_ONCE // m**2, 1)
    for start in range(0, queries, columns):
        block = slice(start, start + columns)
        found[block] = _without_each(x[:, block].T, y[:, block].T)
    if not np.isfinite(found).all():
        raise MethodError("Without a single subset the predictions or losses are constant; retrain on more subsets.")
    return m * whole[:, None] - (m - 1) * found


def _without_each(x: Float[np.ndarray, "q m"], y: Float[np.ndarray, "q m"]) -> Float64[np.ndarray, "q m"]:
    """Spearman's correlation without each entry. Indices: query, entry left out, entry."""
    m = x.shape[1]
    ranks = [_ranks_without_each(values) - m / 2 for values in (x, y)]  # those left, m - 1, have mean rank m / 2
    for rank in ranks:
        rank[:, np.arange(m), np.arange(m)] = 0.0
    a, b = ranks
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(2) / np.sqrt((a * a).sum(2) * (b * b).sum(2))


def _ranks_without_each(values: Float[np.ndarray, "q m"]) -> Float64[np.ndarray, "q m m"]:
    """Mean ranks when entry j is gone: one less above it, half less beside it."""
    from scipy import stats  # not at the top: importing assay stays light

    rank = stats.rankdata(values, axis=1)[:, None, :]
    gone, others = values[:, :, None], values[:, None, :]
    return rank - (gone < others) - 0.5 * (gone == others)


def ceiling(runs: Float[np.ndarray, "seeds m q"]) -> dict[str, float | None]:
    """`between_seeds`, how well one seed's losses rank another's, and `ceiling`; None where there is one seed."""
    seeds = len(runs)
    if seeds < 2:
        return {"between_seeds": None, "ceiling": None}
    pairs = [spearman(runs[a], runs[b]) for a in range(seeds) for b in range(a)]
    r = float(np.nan_to_num(np.array(pairs)).mean())
    return {"between_seeds": r, "ceiling": float(np.sqrt(max(seeds * r / (1 + (seeds - 1) * r), 0.0)))}


def check_varied(values: Float[np.ndarray, "m q"], query_ids: Sequence[str], what: str) -> None:
    """Raise MethodError for a query whose values are all alike, or not finite."""
    wrong = (values.max(0) == values.min(0)) | ~np.isfinite(values).all(0)
    if wrong.any():
        first = int(wrong.argmax())
        raise MethodError(
            f"{what} for the query {query_ids[first]!r} are the same on every subset, or not finite ({wrong.sum()} "
            "such queries), so there is no rank correlation. Leave these queries out, or look at the scores."
        )
