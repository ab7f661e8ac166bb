"""One-step check: do the top-ranked examples really move the query's loss?

For each query q and each set S of k examples (the method's top k, BM25's top k, k at random):

    g = mean over i in S of grad L_i(theta),      theta' = theta - s |theta| g / |g|
    change = L_q(theta') - L_q(theta)

Every set gets a step of the same length (s of the parameters' norm), so that none wins by the sheer size of its
gradients; L_i is summed, L_q averaged over tokens. `s` is found without a look at the queries: halved from 0.01 until a
step on some random training examples lowers their own loss by at least 80% of the first-order prediction. Below zero:
the loss fell, the set helped. This checks the direction to first order, at one model; it is not retraining.

Intervals: 95%, bootstrap over queries (2,000 resamples, seeded); for the differences of method and baseline
the same queries are paired. Cost: sets x queries x k gradients with weights, and as many query losses.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay import progress
from assay.errors import MethodError
from assay.evaluate.intervals import bootstrap_mean
from assay.examples import Example, Examples
from assay.methods.base import Method
from assay.methods.baseline.random import Random
from assay.methods.lexical.bm25 import BM25
from assay.models import Model
from assay.ranking import TopK
from assay.scores import Scores
from assay.tasks import Loss
from assay.tasks.measurements import Reduction

LONGEST, HALVINGS, LINEAR = 1e-2, 20, 0.8
"""First step tried, as a share of the parameters' norm; halvings at most; share of the predicted fall that will do."""
SAMPLE = 8
"""Random training examples on which the step is found."""


def one_step_check(
    model: Model,
    train: Examples,
    scores: Scores,
    queries: Examples,
    k: int = 10,
    step: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Evidence for `scores`: mean change of the queries' loss after one step on each set, in nats, with intervals.

    Returns `{"k", "step", "queries", "unit", "rows": [{"set", "mean", "low", "high", "n"}, ...], "against": [...],
    "text"}`: `against` holds the differences from the baselines, with `wins`, the share of queries for which the set
    lowers the loss more.

    Raises MethodError if the scores are of other examples, or hold fewer than k a query.
    """
    check_scored(scores, train, queries)
    check_ranked(k, len(train))
    check_holds(scores, k)
    sets = {f"{scores.method} top {k}": best_rows(scores, k)}
    if train.kind != "arrays" and scores.method != BM25.name:
        sets[f"bm25 top {k}"] = baseline_rows(BM25(), train, queries, k)
    sets[f"random {k}"] = baseline_rows(Random(seed), train, queries, k)
    sample = list(dict.fromkeys(i for rows in sets[f"random {k}"] for i in rows))[:SAMPLE]
    step, changes = step_changes(model, train, queries, sets, sample, step)
    names = list(sets)
    rows = [_row(name, changes[name], seed) for name in names]
    against = [
        _row(f"{names[0]} less {name}", changes[names[0]] - changes[name], seed)
        | {"wins": float((changes[names[0]] < changes[name]).mean())}
        for name in names[1:]
    ]
    return {
        "k": k,
        "step": step,
        "queries": len(queries),
        "unit": "nats of query loss",
        "rows": rows,
        "against": against,
        "text": _text(names, against, len(queries)),
    }


def step_changes(
    model: Model,
    train: Examples,
    queries: Examples,
    sets: dict[str, list[list[int]]],
    sample: Sequence[int],
    step: float | None = None,
) -> tuple[float, dict[str, Float[np.ndarray, " q"]]]:
    """The step, and each query's change of loss after it on its rows of each set; `sample`: where the step is found."""
    walker = _Walker(model)
    step = walker.small_step([train[i] for i in sample]) if step is None else step
    return step, _changes(walker, train, queries, sets, step)


def best_rows(scores: Scores, k: int) -> list[list[int]]:
    """Positions of the k highest-scoring training examples of each query.

    A dense result fills up with examples that score 0 or less where it must; a top-k result holds none.
    """
    if isinstance(scores.entries, TopK):
        return [scores.entries.side(query, +1, k)[0].tolist() for query in range(len(scores.queries))]
    return [np.argsort(-column, kind="stable")[:k].tolist() for column in scores.entries.T]


def check_scored(scores: Scores, train: Examples, queries: Examples) -> None:
    """Raise MethodError unless the scores are of these examples and queries."""
    same = list(scores.query_ids) == list(queries.ids) and scores.train.total == len(train)
    if not same or list(train.select(scores.train.rows).ids) != list(scores.train.ids):
        raise MethodError(
            f"The scores are of {scores.train.total} examples and {len(scores.queries)} queries, and were given with "
            f"{len(train)} and {len(queries)}, or with others. Give the examples and queries that were scored."
        )


def check_ranked(k: int, rows: int) -> None:
    """Raise MethodError unless there are k examples."""
    if not 1 <= k <= rows:
        raise MethodError(f"The check takes k={k} examples of {rows}; give k between 1 and {rows}.")


def check_holds(scores: Scores, k: int) -> None:
    """Raise MethodError if a top-k result holds fewer than k examples of each query."""
    if isinstance(scores.entries, TopK) and scores.entries.k < k:
        raise MethodError(
            f"The scores hold the {scores.entries.k} best examples of each query and the check takes {k}; give a k of "
            f"at most {scores.entries.k}, or attribute with a larger top."
        )


def baseline_rows(
    method: Method, train: Examples, queries: Examples, k: int, model: Model | None = None
) -> list[list[int]]:
    """The method's best rows, a query at a time, as a matrix of all scores may be too large."""
    fitted = method.fit(model, train)
    return [best_rows(fitted.score(queries[q : q + 1]), k)[0] for q in range(len(queries))]


def _changes(
    walker: "_Walker", train: Examples, queries: Examples, sets: dict[str, list[list[int]]], step: float
) -> dict[str, Float[np.ndarray, " q"]]:
    """Change of each query's loss after the step, for each set."""
    changes = {name: np.zeros(len(queries)) for name in sets}
    with progress.task("one-step check", len(queries) * len(sets)) as advance:
        for q, query in enumerate(queries):
            before = walker.loss([query], "mean")
            for name, rows in sets.items():
                if rows[q]:
                    direction, _ = walker.direction([train[i] for i in rows[q]])
                    changes[name][q] = walker.after(direction, step, [query], "mean") - before
                advance()
    return changes


class _Walker:
    """A copy of the model that takes a step, is measured, and goes back."""

    def __init__(self, model: Model) -> None:
        module = copy.deepcopy(model.module).eval()
        self._model = Model(module, model.task, modules=model.patterns, name=model.name)
        self._parameters: list[nn.Parameter] = list(self._model.parameters.values())
        self._start = [p.detach().clone() for p in self._parameters]
        self._norm = _length(self._start)

    def small_step(self, examples: Sequence[Example]) -> float:
        """The longest step of the halvings at which the loss is still nearly linear along the examples' gradient."""
        direction, slope = self.direction(examples)
        before, step = self.loss(examples, "sum"), LONGEST
        for _ in range(HALVINGS):
            if before - self.after(direction, step, examples, "sum") >= LINEAR * slope * step * self._norm:
                break
            step /= 2
        return step

    def direction(self, examples: Sequence[Example]) -> tuple[list[Tensor], float]:
        """The unit vector along the examples' mean gradient, and that gradient's length; zeros if it vanishes."""
        total = [torch.zeros_like(p) for p in self._parameters]
        for example in examples:
            loss = self._losses([example], "sum").sum() / len(examples)
            gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True, materialize_grads=True)
            for sum_, gradient in zip(total, gradients, strict=True):
                sum_ += gradient
        length = _length(total)
        return [gradient / max(length, 1e-30) for gradient in total], length

    def after(
        self, direction: Sequence[Tensor], step: float, examples: Sequence[Example], reduction: Reduction
    ) -> float:
        """Mean loss of the examples after a step against the direction."""
        with torch.no_grad():
            for p, start, part in zip(self._parameters, self._start, direction, strict=True):
                p.copy_(start - step * self._norm * part)
            loss = self.loss(examples, reduction)
            for p, start in zip(self._parameters, self._start, strict=True):
                p.copy_(start)
        return loss

    def loss(self, examples: Sequence[Example], reduction: Reduction) -> float:
        """Mean loss of the examples where the copy stands."""
        with torch.no_grad():
            return float(np.mean([float(self._losses([example], reduction)[0]) for example in examples]))

    def _losses(self, examples: Sequence[Example], reduction: Reduction) -> Tensor:
        batch = self._model.task.collate([self._model.task.encode(e) for e in examples], self._model.device)
        return self._model.task.measure(self._model.module, batch, Loss(reduction))


def _length(tensors: Sequence[Tensor]) -> float:
    return float(sum(t.double().square().sum() for t in tensors)) ** 0.5


def _row(name: str, values: Float[np.ndarray, " q"], seed: int) -> dict[str, Any]:
    mean, low, high = bootstrap_mean(values, seed)
    return {"set": name, "mean": mean, "low": low, "high": high, "n": len(values)}


def _text(names: Sequence[str], against: Sequence[dict[str, Any]], queries: int) -> str:
    """A plain statement for each baseline."""
    parts = [
        f"{'lowers' if row['high'] < 0 else 'does not clearly lower'} the loss more than {name} does "
        f"(difference {row['mean']:+.4f} nats, 95% interval {row['low']:+.4f} to {row['high']:+.4f})"
        for name, row in zip(names[1:], against, strict=True)
    ]
    return f"Over {queries} queries, a step on the {names[0]} {', and '.join(parts)}."
