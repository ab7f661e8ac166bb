"""Which of the user's methods to trust: the checks that a budget of minutes affords, on the user's own model and data.

In this order, each on as many queries or subsets as its share of the time allows by timing the first ones:

    one step        always (a model is needed)
    tail patch      a few real training steps
    reliability     of each method's answers
    retraining      on random subsets, where there is a recipe: the linear datamodeling score; takes all the time that is left

The verdict goes by the strongest check that was made: retraining, else the tail patch, else the one step. `trust`: better than BM25,
embeddings and random examples with 97.5% of resamples; otherwise which of them the method does not beat.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Bool, Float64

from assay.errors import InputError, MethodError
from assay.evaluate.agreement import agreement
from assay.evaluate.metrics.cardinality import cardinality
from assay.evaluate.metrics.comparison import Comparison, by_method, compare
from assay.evaluate.metrics.lds import LEAST, lds, predictions
from assay.evaluate.metrics.tail_patch import patch_changes, patch_comparison, patch_recipe
from assay.evaluate.one_step import SAMPLE, check_scored, step_changes
from assay.evaluate.reliability import Reliability, reliability
from assay.evaluate.sets import BASELINES, Sets, baselines, named_sets, random_rows
from assay.evaluate.truth import Truth, truth
from assay.examples import Examples
from assay.models import Model
from assay.ranking import TopK
from assay.scores import Scores
from assay.tables import Table

SURE = 0.975
"""Share of resamples in which a method must beat a baseline."""
FEWEST = 4
"""Queries that the one-step check takes in any case."""
MOST = 100
"""Subsets retrained at most."""
SHARES = {"one_step": 0.2, "tail_patch": 0.3, "reliability": 0.5}
"""Of the time, with a recipe half of it: the rest is for retraining."""
STRONGEST = ("lds", "tail_patch", "one_step")
CALLED = {"lds": "retraining on subsets", "tail_patch": "a few training steps", "one_step": "one training step"}


@dataclass(frozen=True)
class Trust:
    """What was found; `checks[check][method]` compares the method with all others.

    Args:
        methods: best first.
        verdicts: by method, `trust`, or which baseline it does not beat.
        decided_by: the check that the verdicts follow.
        notes: what could not be afforded or measured.
    """

    methods: tuple[str, ...]
    verdicts: Mapping[str, str]
    decided_by: str
    checks: Mapping[str, Mapping[str, Comparison]] = field(repr=False)
    reliability: Mapping[str, Reliability] = field(repr=False)
    plain: Mapping[str, Mapping[str, Any]] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """A plain statement."""
        judged = "; ".join(f"{name}: {self.verdicts[name]}" for name in self.methods)
        return f"By {CALLED[self.decided_by]}, best first: {judged}."

    def rows(self) -> list[dict[str, Any]]:
        """One a method, best first: verdict, each check's mean and interval, share of stable queries."""
        found: list[dict[str, Any]] = []
        for name in self.methods:
            row: dict[str, Any] = {"method": name, "verdict": self.verdicts[name]}
            for check, comparisons in self.checks.items():
                first = comparisons[name].first if name in comparisons else None
                row[check] = None if first is None else first.row(name)
            known = self.reliability.get(name)
            row["stable"] = None if known is None or not known.overlaps else known.stable / len(known.query_ids)
            found.append(row)
        return found

    def evidence(self, method: str) -> dict[str, Any]:
        """What `Scores.with_evidence` keeps with this method's run, by name."""
        deciding = self.checks[self.decided_by]
        rows = [deciding[name].first.row(name) | {"verdict": self.verdicts[name]} for name in self.methods]
        summary = {
            "decided_by": self.decided_by, "unit": deciding[self.methods[0]].unit, "rows": rows,
            "verdict": self.verdicts[method], "text": " ".join([self.text, *self.notes]),
        }  # fmt: skip
        checks = {check: found[method].evidence() for check, found in self.checks.items() if method in found}
        reliable = {"reliability": self.reliability[method].evidence()} if method in self.reliability else {}
        return {"trust": summary, **checks, **self.plain.get(method, {}), **reliable}


def trust(
    model: Model | None,
    train: Examples,
    queries: Examples,
    results: Scores | Sequence[Scores] | Mapping[str, Scores],
    minutes: float = 10.0,
    recipe: Any = None,
    path: str | Path | None = None,
    k: int = 10,
    seed: int = 0,
    processes: int = 2,
) -> Trust:
    """Judge results on the same examples and queries within `minutes`.

    Args:
        model: that was attributed; None leaves retraining as the only check.
        recipe: of the training, or an estimator: for retraining on subsets.
        path: where the retrained truth is kept and found again; by default it is forgotten.
        k: how many of the top are tested, at most a quarter of the examples.

    Raises MethodError: scores of other examples, neither model nor recipe, or less time than 0 minutes.
    """
    named = by_method(results)
    for result in named.values():
        check_scored(result, train, queries)
    if model is None and recipe is None:
        raise MethodError("There is neither a model nor a recipe, so nothing can be checked; give one of them.")
    if not minutes > 0:
        raise MethodError(f"minutes is {minutes}; a number above 0 was expected.")
    held = [result.entries.k for result in named.values() if isinstance(result.entries, TopK)]
    job = _Job(train, queries, named, minutes, min([k, max(len(train) // 4, 1), *held]), seed)
    checks: dict[str, Mapping[str, Comparison]] = {}
    known: dict[str, Reliability] = {}
    scale = 1.0 if recipe is None else 0.5
    if model is not None:
        checks |= job.patches(model, scale)
        known = job.reliable(model, scale)
    if recipe is not None:
        with tempfile.TemporaryDirectory(prefix="assay-") as folder:
            checks |= job.retrained(recipe, Path(path or folder), model, processes)
    if not checks:
        raise MethodError(f"Nothing could be checked in {minutes:g} minutes: {' '.join(job.notes)} Give more time.")
    decided_by = next(check for check in STRONGEST if check in checks)
    deciding = checks[decided_by]
    judged = [name for name in named if name in deciding]
    sign = 1 if decided_by == "lds" else -1
    ordered = tuple(sorted(judged, key=lambda name: -sign * deciding[name].mean))
    verdicts = {name: _verdict(deciding[name]) for name in ordered}
    return Trust(ordered, verdicts, decided_by, checks, known, job.plain(), tuple(job.notes))


def _verdict(comparison: Comparison) -> str:
    """`trust`, or the baseline that is not beaten; random first, as nothing is said then."""
    own = next(iter(comparison.rows))
    if own == "random":
        return "no better than random"
    if comparison.higher and comparison.first.low <= 0:
        return "no better than chance"
    surely = {name: comparison.better(name) for name in comparison.against if name in BASELINES}
    for name in sorted(surely, key=lambda name: (name != "random", surely[name])):
        if surely[name] <= 1 - SURE:
            return f"worse than {name}"
        if surely[name] < SURE:
            return f"no better than {name}"
    return "trust"


class _Job:
    """One evaluation; `notes` collects what was left out."""

    def __init__(
        self, train: Examples, queries: Examples, named: dict[str, Scores], minutes: float, k: int, seed: int
    ) -> None:
        self.train, self.queries, self.named, self.k, self.seed = train, queries, named, k, seed
        self.seconds = 60 * minutes
        self.end = time.perf_counter() + self.seconds
        self.notes: list[str] = []

    def patches(self, model: Model, scale: float) -> dict[str, Mapping[str, Comparison]]:
        """The one-step check on at least 4 queries, the tail patch if it is affordable."""
        train, k, seed = self.train, self.k, self.seed
        sets = named_sets(self.named, train, self.queries, k, model, seed)
        sample = random_rows(train, SAMPLE, seed)
        step: float | None = None

        def one_step(asked: Examples, some: Sets) -> dict[str, Float64[np.ndarray, " q"]]:
            nonlocal step
            step, changes = step_changes(model, train, asked, some, sample, step)
            return changes

        found: dict[str, Mapping[str, Comparison]] = {}
        stepped = self._timed("one-step check", one_step, sets, scale * SHARES["one_step"], FEWEST)
        found["one_step"] = self._each(stepped, {"k": k, "step": step}, f"change of loss after a step on the top {k}")
        if time.perf_counter() < self.end:
            recipe = patch_recipe(model, train, k, seed=seed)
            share = scale * SHARES["tail_patch"]

            def patch(asked: Examples, some: Sets) -> dict[str, Float64[np.ndarray, " q"]]:
                return patch_changes(recipe, train, asked, some)

            patched = self._timed("tail patch", patch, sets, share, 0)
            if patched:
                found["tail_patch"] = {
                    name: patch_comparison(recipe, k, _first(patched, name), seed) for name in self.named
                }
        return found

    def _timed(self, what: str, check: Any, sets: Sets, share: float, least: int) -> Any:
        """The check on one query, then on as many others as fit; drawn at random. None if fewer than 4 fit, unless forced."""
        order = np.random.default_rng(self.seed).permutation(len(self.queries))

        def run(rows: np.ndarray) -> Any:
            return check(self.queries.select(rows), {name: [found[q] for q in rows] for name, found in sets.items()})

        start = time.perf_counter()
        first = run(order[:1])
        each = time.perf_counter() - start
        fit = int(min(share * self.seconds, self.end - time.perf_counter()) / max(each, 1e-9))
        count = min(len(order), max(fit, least))
        if count < min(FEWEST, len(order)):
            self.notes.append(f"The {what} was left out: a query takes {each:.1f} s.")
            return None
        if count < len(order):
            self.notes.append(f"The {what} is on {count} of {len(order)} queries, drawn at random.")
        if count <= 1:
            return first
        rest = run(order[1:count])
        return {name: np.concatenate([first[name], rest[name]]) for name in first}

    def _each(self, changes: Any, facts: dict[str, Any], what: str) -> dict[str, Comparison]:
        """For each method the comparison in which it stands first."""
        return {
            name: compare(
                what, "nats of query loss", {n: v[:, None] for n, v in _first(changes, name).items()},
                _first(changes, name), facts, self.seed, higher=False,
            )
            for name in self.named
        }  # fmt: skip

    def reliable(self, model: Model, scale: float) -> dict[str, Reliability]:
        """Of each method, a share of the time each."""
        share = scale * SHARES["reliability"] * self.seconds / len(self.named) / 60
        found: dict[str, Reliability] = {}
        for name, result in self.named.items():
            try:
                found[name] = reliability(
                    model, self.train, self.queries, None, result, self.k, minutes=share, seed=self.seed
                )
            except InputError as error:
                self.notes.append(f"The reliability of {name} was not measured: {error}")
        return found

    def plain(self) -> dict[str, dict[str, Any]]:
        """Evidence that costs nothing, by method: cardinality, agreement of sources and labels."""
        found: dict[str, dict[str, Any]] = {name: {} for name in self.named}
        for name, result in self.named.items():
            ordered = [result, *(other for title, other in self.named.items() if title != name)]
            kinds: tuple[tuple[str, Literal["source", "label"]], ...] = (
                ("agreement", "source"),
                ("agreement_label", "label"),
            )
            for key, by in kinds:
                classes = self.queries.sources if by == "source" else self.queries.labels
                if any(value is not None for value in classes):
                    found[name][key] = agreement(self.train, self.queries, ordered, self.k, self.seed, by)
            if len(self.queries) > 1 and result.is_dense:
                found[name]["cardinality"] = cardinality({name: result}, self.k, self.seed).evidence()
        return found

    def retrained(
        self, recipe: Any, path: Path, model: Model | None, processes: int
    ) -> dict[str, Mapping[str, Comparison]]:
        """The linear datamodeling score on as many subsets as fit, in all the time that is left."""
        dense = {name: result for name, result in self.named.items() if result.is_dense}
        if len(dense) < len(self.named):
            self.notes.append("Results that keep their best only have no linear datamodeling score.")
        found = self._affordable(recipe, path, processes) if dense else None
        if found is None:
            return {}
        methods = {result.method for result in dense.values()}
        others = {
            method.name: method.fit(model, self.train).score(self.queries)
            for method in baselines(self.train, model, self.seed)
            if method.name not in methods
        }
        scored, some = _varied(dense, others, found)
        if len(some.query_ids) < len(found.query_ids):
            gone = len(found.query_ids) - len(some.query_ids)
            self.notes.append(
                f"{gone} queries have no linear datamodeling score: some result or loss is constant there."
            )
        if not some.query_ids:
            return {}
        return {"lds": {name: lds(_first(scored, name), some, self.seed) for name in dense}}

    def _affordable(self, recipe: Any, path: Path, processes: int) -> Truth | None:
        """Truth of up to 100 random halves; more as long as what was timed says that they fit."""
        count, each = 1, None
        while True:
            before, start = _stored(path), time.perf_counter()
            found = truth(recipe, self.train, self.queries, path, count, processes=processes)
            new = _stored(path) - before
            each = (time.perf_counter() - start) / new if new else each
            left = self.end - time.perf_counter()
            more = LEAST if each is None else int(left / each)
            if len(found) >= MOST or more < 1:
                break
            if count < LEAST and more < LEAST - count:
                break
            count = min(max(len(found), count) + max(more // 2, min(more, LEAST)), MOST)
        if len(found) < LEAST:
            self.notes.append(
                f"Retraining was left out: one training takes {each or 0:.1f} s, and at least {LEAST} subsets are needed."
            )
            return None
        return found


def _stored(path: Path) -> int:
    return len(list(path.glob("*-seed*.safetensors"))) if path.is_dir() else 0


def _first(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The same with this one in front."""
    return {name: found[name], **{other: value for other, value in found.items() if other != name}}


def _varied(dense: dict[str, Scores], others: dict[str, Scores], found: Truth) -> tuple[dict[str, Scores], Truth]:
    """Results and truth on the queries for which all vary; a baseline that is constant for most queries is left out."""

    def varies(result: Scores) -> Bool[np.ndarray, " q"]:
        sums = predictions(result.array, found)
        return (sums.max(0) > sums.min(0)).astype(np.bool_)

    others = {name: result for name, result in others.items() if varies(result).mean() > 0.5}
    scored = {**dense, **others}
    good = np.isfinite(found.losses).all(0) & (found.losses.max(0) > found.losses.min(0))
    for result in scored.values():
        good &= varies(result)
    kept = np.flatnonzero(good)
    ids = tuple(found.query_ids[q] for q in kept)
    some = replace(found, runs=found.runs[:, :, kept], full_runs=found.full_runs[:, kept], query_ids=ids)
    return {name: _asked(result, kept) for name, result in scored.items()}, some


def _asked(scores: Scores, kept: np.ndarray) -> Scores:
    """The scores for some of the queries."""
    queries, positions = scores.queries, cast(list[int], kept.tolist())
    table = Table(
        [queries.ids[q] for q in positions], [queries.sources[q] for q in positions], [queries.texts[q] for q in positions],
        np.arange(len(kept)), len(kept),
    )  # fmt: skip
    return Scores.of(scores.array[:, kept], scores.train, table, scores.provenance)
