"""Reliability: would the same question get the same answer under another seed, other data, other damping?

For each query, the share of its top k that stays, for each kind of variation that the method has:

    seed      other seeds of the random projection (or of what else is drawn): mean overlap of all pairs of runs
    data      fitted to random halves of the training examples: overlap, among the examples of the half, of the top k / 2
    damping   times 3 and a third: mean overlap with the run

A half without replacement spreads a statistic as much as the bootstrap does (Shao and Wu, A General Theory for Jackknife Variance
Estimation, 1989: deleting d of n examples has the factor (n - d) / d, 1 for d = n / 2), and no example occurs twice. A method
that scores each example on its own is not moved by it. A query is `stable` if at least 70% stays under every variation.

A random projection errs by its seed: the correlation of all scores of a query under two seeds is given too, and said when it is
below 0.8. This measures the method's own noise, not whether it is right.

Cost: an attribution for each further seed and damping, half of one for each half; a kind that 16 examples show not to matter is
not run.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

import numpy as np
from jaxtyping import Float, Float64

from assay import progress
from assay.errors import InputError, MethodError
from assay.evaluate.intervals import one_way
from assay.evaluate.metrics.overlap import stability
from assay.evaluate.metrics.ranks import top_mask
from assay.evaluate.one_step import best_rows, check_holds, check_ranked, check_scored
from assay.examples import Examples
from assay.methods import Method, Registered, find
from assay.ranking import TopK
from assay.scores import Scores

STABLE = 0.7
"""Share of the top k that must stay."""
CORRELATED = 0.8
"""Correlation of scores under two seeds below which the projection is said to be too small."""
PROBE = 16
"""Examples on which it is tried whether a variation matters at all."""
FACTORS = (3.0, 1 / 3)
"""Of the damping."""
KINDS = {"seed": "another seed", "data": "another half of the data", "damping": "damping x3 and x1/3"}


@dataclass(frozen=True)
class Reliability:
    """How stable each query's top is.

    Args:
        method, k: whose top k.
        overlaps: for each kind of variation (`seed`, `data`, `damping`) the share that stays, for each query.
        correlation: of each query's scores under two seeds (Pearson); None if no other seed was run, or not all scores are kept.
        skipped: kinds that were not measured, and why.
        query_ids: in order.
        compression: of the method, if it has one.
    """

    method: str
    k: int
    overlaps: Mapping[str, Float64[np.ndarray, " q"]]
    correlation: Float64[np.ndarray, " q"] | None
    skipped: Mapping[str, str]
    query_ids: tuple[str, ...] = field(repr=False)
    compression: str | None = None

    @property
    def worst(self) -> Float64[np.ndarray, " q"]:
        """For each query the smallest share that stays; NaN where nothing was measured."""
        if not self.overlaps:
            return np.full(len(self.query_ids), np.nan)
        return np.stack(list(self.overlaps.values())).min(0)

    @property
    def verdicts(self) -> tuple[str, ...]:
        """`stable` or `unstable` for each query; `not measured` where no variation was run."""
        return tuple(
            "not measured" if np.isnan(share) else "stable" if share >= STABLE - 1e-9 else "unstable"
            for share in self.worst
        )

    @property
    def stable(self) -> int:
        """How many queries are stable."""
        return self.verdicts.count("stable")

    @property
    def text(self) -> str:
        """A plain statement."""
        if not self.overlaps:
            return f"Not measured: {'; '.join(f'{kind}: {why}' for kind, why in self.skipped.items())}."
        parts = [
            f"The top {self.k} of {self.stable} of {len(self.query_ids)} queries is stable: at least {STABLE:.0%} of it "
            f"stays under every variation ({', '.join(f'{KINDS[kind]}: {v.mean():.0%}' for kind, v in self.overlaps.items())})."
        ]
        if self.correlation is not None:
            mean = float(self.correlation.mean())
            parts.append(
                f"Scores under two seeds correlate {mean:.2f} (mean over queries; lowest {self.correlation.min():.2f})."
            )
            if mean < CORRELATED and self.compression not in (None, "none"):
                parts.append(
                    f"The random projection '{self.compression}' is too small for these scores: another seed gives other "
                    "answers. Take a larger one, or none."
                )
            elif mean < CORRELATED:
                parts.append("What the method draws at random decides much of its answer.")
        parts += [f"Not measured under {KINDS[kind]}: {why}." for kind, why in self.skipped.items()]
        return " ".join(parts)

    def evidence(self) -> dict[str, Any]:
        """In terms of JSON; `queries` has each query's verdict and numbers."""
        correlation = {} if self.correlation is None else {"seed_correlation": float(self.correlation.mean())}
        return {
            "k": self.k,
            "unit": "share of the top that stays",
            "limit": STABLE,
            "stable": self.stable,
            **correlation,
            "rows": [one_way(shares).row(KINDS[kind]) for kind, shares in self.overlaps.items()],
            "queries": [self._query(q) for q in range(len(self.query_ids))],
            "skipped": dict(self.skipped),
            "text": self.text,
        }

    def _query(self, q: int) -> dict[str, Any]:
        shares = {kind: float(values[q]) for kind, values in self.overlaps.items()}
        correlation = {} if self.correlation is None else {"seed_correlation": float(self.correlation[q])}
        return {"query_id": self.query_ids[q], "verdict": self.verdicts[q], **shares, **correlation}


def reliability(
    model: Any,
    train: Examples,
    queries: Examples,
    method: str | Registered | None = None,
    scores: Scores | None = None,
    k: int = 10,
    runs: int = 2,
    minutes: float | None = None,
    seed: int = 0,
) -> Reliability:
    """How stable the top k of each query is under the variations that apply to the method.

    Args:
        model: as the method takes it.
        method: by default that of `scores`, with its parameters.
        scores: the run in question; by default it is made.
        runs: further seeds, and halves of the data.
        minutes: variations that would not fit are left out, and said to be.

    Raises MethodError: no method, a method of values, k out of range, fewer than 1 run, scores of other examples.
    """
    if method is None and scores is None:
        raise MethodError("Neither a method nor scores were given; give at least one.")
    chosen = find(method if method is not None else cast(Scores, scores).method, **_parameters(method, scores))
    if not isinstance(chosen, Method):
        raise MethodError(f"'{chosen.name}' gives values, not scores; the reliability is that of scores.")
    if runs < 1:
        raise MethodError(f"runs is {runs}; at least 1 was expected.")
    check_ranked(k, len(train))
    trial = _Trial(chosen, model, train, queries, minutes)
    reference = trial.reference(scores)
    check_holds(reference, k)
    overlaps: dict[str, Float64[np.ndarray, " q"]] = {}
    correlation = None
    seeds = trial.vary("seed", _seeds(chosen, runs))
    if seeds:
        overlaps["seed"] = stability([reference, *seeds], k)
        correlation = _correlation([reference, *seeds])
    halves = list(trial.halves(runs, seed))
    if halves:
        overlaps["data"] = np.mean([_shared(reference, half, rows, max(k // 2, 1)) for half, rows in halves], axis=0)
    damped = trial.vary("damping", _dampings(chosen))
    if damped:
        top = top_mask(reference, k)
        overlaps["damping"] = np.mean([(top & top_mask(other, k)).sum(1) / k for other in damped], axis=0)
    compression = getattr(chosen, "compression", None)
    return Reliability(chosen.name, k, overlaps, correlation, trial.skipped, tuple(reference.query_ids), compression)


def _parameters(method: str | Registered | None, scores: Scores | None) -> Mapping[str, Any]:
    """Of the run, unless the method was given."""
    return {} if method is not None or scores is None else scores.provenance.parameters


def _seeds(method: Method, runs: int) -> list[Method]:
    """The method under other seeds, if it has one."""
    seed = getattr(method, "seed", None)
    return [replace(cast(Any, method), seed=seed + j) for j in range(1, runs + 1)] if isinstance(seed, int) else []


def _dampings(method: Method) -> list[Method]:
    """The method with more and with less damping, if it has a number for it."""
    damping = getattr(method, "damping", None)
    if not isinstance(damping, float | int) or damping <= 0:
        return []
    return [replace(cast(Any, method), damping=damping * factor) for factor in FACTORS]


class _Trial:
    """Runs variations of a method as long as there is time; `skipped` says which were not run, and why."""

    def __init__(self, method: Method, model: Any, train: Examples, queries: Examples, minutes: float | None) -> None:
        self._method, self._model, self._train, self._queries = method, model, train, queries
        self._end = None if minutes is None else time.perf_counter() + 60 * minutes
        self._seconds, self._top = 0.0, None
        self.skipped: dict[str, str] = {}

    def reference(self, scores: Scores | None) -> Scores:
        """The run itself; how long it took tells what the others will take."""
        if scores is None:
            start = time.perf_counter()
            scores = self._method.fit(self._model, self._train).score(self._queries)
            self._seconds = time.perf_counter() - start
        else:
            check_scored(scores, self._train, self._queries)
            self._seconds = scores.provenance.seconds
        self._top = scores.entries.k if isinstance(scores.entries, TopK) else None
        return scores

    def vary(self, kind: str, methods: list[Method]) -> list[Scores]:
        """Scores of the variations, or none if they do not apply, do not matter, cannot be run or take too long."""
        if not methods:
            given = {entry.name for entry in fields(cast(Any, self._method))}
            self.skipped[kind] = (
                "chosen from the data, not by a number" if kind in given else f"the method has no {kind}"
            )
            return []
        return self._run(kind, [(method, None) for method in methods], 1.0)

    def halves(self, runs: int, seed: int) -> Iterator[tuple[Scores, np.ndarray]]:
        """Scores of random halves of the examples, and their positions."""
        n = len(self._train)
        if n < 4:
            self.skipped["data"] = f"there are only {n} training examples"
            return
        drawn = [np.sort(np.random.default_rng((seed, j)).permutation(n)[: n // 2]) for j in range(runs)]
        found = self._run("data", [(self._method, rows) for rows in drawn], 0.5)
        yield from zip(found, drawn, strict=False)

    def _run(self, kind: str, variations: list[tuple[Method, np.ndarray | None]], share: float) -> list[Scores]:
        found: list[Scores] = []
        try:
            if not self._matters(kind, variations[0]):
                self.skipped[kind] = "the scores do not depend on it"
                return []
            for method, rows in variations:
                expected = share * self._seconds
                if self._end is not None and time.perf_counter() + expected > self._end:
                    if not found:
                        self.skipped[kind] = f"it would take about {expected:.0f} s more than there is time for"
                    break
                with progress.shown(False):
                    found.append(self._scores(method, self._train if rows is None else self._train.select(rows)))
        except InputError as error:
            self.skipped[kind] = f"it cannot be run ({error})"
            return []
        return found

    def _scores(self, method: Method, train: Examples) -> Scores:
        top = None if self._top is None else min(self._top, len(train))
        return method.fit(self._model, train).score(self._queries, top)

    def _matters(self, kind: str, variation: tuple[Method, np.ndarray | None]) -> bool:
        """Whether the variation changes scores on a few examples; in doubt it does."""
        few, asked = self._train[:PROBE], self._queries[:2]
        method, rows = variation
        try:
            with progress.shown(False):
                plain = self._method.fit(self._model, few).score(asked).array
                other = method.fit(self._model, few if rows is None else few[: len(few) // 2]).score(asked).array
        except InputError:
            return True
        plain = plain[: len(other)]
        return not np.allclose(plain, other, rtol=1e-4, atol=1e-5 * float(np.abs(plain).max()))


def _correlation(results: list[Scores]) -> Float64[np.ndarray, " q"] | None:
    """Pearson's correlation of each query's scores, mean over pairs of results; 0 where one is constant."""
    if not all(result.is_dense for result in results):
        return None
    pairs = [_pearson(a.array, b.array) for j, a in enumerate(results) for b in results[:j]]
    return np.mean(pairs, axis=0)


def _pearson(x: Float[np.ndarray, "n q"], y: Float[np.ndarray, "n q"]) -> Float64[np.ndarray, " q"]:
    a, b = (v.astype(np.float64) - v.mean(0, dtype=np.float64) for v in (x, y))
    norm = np.sqrt((a * a).sum(0) * (b * b).sum(0))
    return np.where(norm > 0, (a * b).sum(0) / np.where(norm > 0, norm, 1.0), 0.0)


def _shared(reference: Scores, half: Scores, rows: np.ndarray, k: int) -> Float64[np.ndarray, " q"]:
    """The share of the half's top k that is the reference's top k among the rows of the half."""
    held = reference.entries.k if isinstance(reference.entries, TopK) else reference.train.total
    inside = np.zeros(reference.train.total, dtype=np.bool_)
    inside[rows] = True
    shares: list[float] = []
    for ranked, top in zip(best_rows(reference, held), best_rows(half, k), strict=True):
        mine = [row for row in ranked if inside[row]][:k]
        shares.append(len({*mine} & {*rows[top].tolist()}) / k)
    return np.array(shares, dtype=np.float64)
