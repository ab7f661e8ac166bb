"""Counterfactual truth: models retrained on subsets of the training examples, and their losses on the queries.

    losses[j, q] = loss of query q after the recipe trained on subset j

Every score claims something about these numbers, and every metric that needs retraining reads them from here. A subset
is retrained with weight 1 for what it keeps and 0 for the rest, under the batches of the full run (`rebatch=True`: new
batches of what it keeps). Each retraining is stored the moment it ends (see `truth_store`), so a run that was killed goes
on where it stopped, more subsets and seeds are added to what is there, and all metrics share them.

Cost: (subsets + 1) x seeds trainings, on `processes` processes of one thread each. On disk n + 8 q bytes a retraining.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from assay import progress
from assay.errors import MethodError
from assay.evaluate.subsets import RandomSubsets, Subsets
from assay.evaluate.truth_store import Family, TruthStore
from assay.examples import Examples, read
from assay.training import EstimatorRecipe, Recipe, as_recipe
from assay.training.data import Encoded
from assay.training.retrain import Job, Work, retrained


@dataclass(frozen=True, eq=False)
class Truth:
    """Retrained losses of a family of subsets.

    Args:
        masks: which examples each of `m` subsets keeps.
        runs: loss of each query after each retraining, for every seed. In nats; of a text the mean over its tokens.
        full_runs: the same with all examples.
        names: of the subsets.
        train_ids, query_ids: in the order of the columns of `masks` and `losses`.
        family: which subsets they are.
        path: the directory that holds them.
    """

    masks: Bool[np.ndarray, "m n"] = field(repr=False)
    runs: Float64[np.ndarray, "seeds m q"] = field(repr=False)
    full_runs: Float64[np.ndarray, "seeds q"] = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    train_ids: tuple[str, ...] = field(repr=False)
    query_ids: tuple[str, ...] = field(repr=False)
    family: str
    path: Path

    @property
    def losses(self) -> Float64[np.ndarray, "m q"]:
        """The losses, mean over seeds."""
        return self.runs.mean(0)

    @property
    def full(self) -> Float64[np.ndarray, " q"]:
        """The losses with all examples, mean over seeds."""
        return self.full_runs.mean(0)

    @property
    def seeds(self) -> int:
        """How many seeds each subset was trained with."""
        return len(self.runs)

    def __len__(self) -> int:
        return len(self.masks)

    @staticmethod
    def open(path: str | os.PathLike[str], family: str | None = None) -> "Truth":
        """A stored family, by its name or the beginning of it; None: the only one, or the random one.

        Raises InputError: no truth there, damaged, no such family, or retrainings are missing (run `truth` again).
        """
        store = TruthStore.open(path)
        return _loaded(store, store.family(family))


def truth(
    recipe: Any,
    train: Any,
    queries: Any,
    path: str | os.PathLike[str],
    subsets: int | Subsets = 100,
    fraction: float = 0.5,
    seed: int = 0,
    seeds: int = 1,
    processes: int = 2,
    rebatch: bool = False,
) -> Truth:
    """Retrain on subsets, or read what was retrained before; only what is missing is trained.

    Args:
        recipe: an `assay.Recipe`, an `EstimatorRecipe` or an estimator of scikit-learn.
        train, queries: anything that `assay.read` reads.
        path: a directory: new, or that of the same recipe, examples and queries.
        subsets: so many random ones of `fraction` of the examples, drawn by `seed`; or `LeaveOneOut()`,
            `LeaveTopOut(scores, k)`, `LeaveGroupOut(by)`.
        seeds: each subset is trained with the recipe's seed and so many less one after it. Two or more tell how far
            one retraining predicts another: the noise ceiling.
        processes: trainings at a time. The numbers do not depend on it.
        rebatch: leave examples out before batches are made, as published ground truths do.

    Raises:
        MethodError: the directory holds another truth; subsets that cannot be drawn; a recipe that cannot be sent to
            another process. DataError, ModelError, NonFiniteError: from training. StorageError.
    """
    recipe = as_recipe(recipe)
    if seeds < 1:
        raise MethodError(f"seeds is {seeds}; at least 1 was expected.")
    train, queries = _examples(train), _examples(queries)
    chosen = subsets if isinstance(subsets, Subsets) else RandomSubsets(subsets, fraction, seed)
    names, masks = chosen.members(train)
    store = TruthStore.create(path, _identity(recipe, train, queries, rebatch), train, queries)
    family = Family.of(chosen.name, names, masks, [recipe.seed + k for k in range(seeds)])
    store.register(family)
    work = Work(recipe, recipe.encode(train), recipe.encode(queries), rebatch)
    _complete(store, family, masks, work, processes)
    return _loaded(store, family)


def _loaded(store: TruthStore, family: Family) -> Truth:
    masks, runs, full = store.load(family)
    return Truth(masks, runs, full, family.names, store.train_ids, store.query_ids, family.name, store.directory)


def _complete(store: TruthStore, family: Family, masks: Bool[np.ndarray, "m n"], work: Work, processes: int) -> None:
    """Train what the store lacks, the full run first."""
    every = np.concatenate([np.ones((1, masks.shape[1]), dtype=np.bool_), masks])
    wanted = {
        (key, seed): mask for seed in family.seeds for key, mask in zip((family.full, *family.keys), every, strict=True)
    }
    missing = {pair: mask for pair, mask in wanted.items() if not store.has(*pair)}
    if len(missing) < len(wanted):
        progress.say(f"{len(wanted) - len(missing)} of {len(wanted)} retrainings are there already")
    jobs = [Job(mask.astype(np.float64), seed) for (_, seed), mask in missing.items()]
    with progress.task("retraining", len(jobs)) as advance:
        for job, losses in retrained(work, jobs, processes):
            store.write(job.weights != 0, job.seed, losses)
            advance()


def _examples(given: Any) -> Examples:
    return given.examples if isinstance(given, Encoded) else read(given)


def _identity(recipe: Recipe | EstimatorRecipe, train: Examples, queries: Examples, rebatch: bool) -> dict[str, Any]:
    """What the losses follow from besides subset and seed; how many checkpoints a run keeps does not change them."""
    facts = {name: value for name, value in recipe.facts().items() if name != "checkpoints"}
    batches = "of the subset" if rebatch else "of the full run"
    return {"recipe": facts, "train": train.fingerprint(), "queries": queries.fingerprint(), "batches": batches}


def check_aligned(truth: Truth, train_ids: Sequence[str], query_ids: Sequence[str], what: str) -> None:
    """Raise MethodError unless `what` is of the truth's examples and queries, in its order."""
    for kind, given, expected in (
        ("training example", train_ids, truth.train_ids),
        ("query", query_ids, truth.query_ids),
    ):
        if len(given) != len(expected):
            raise MethodError(
                f"{what} is of {len(given)} and the truth of {len(expected)} ({kind} ids); give both the same data."
            )
        for position, (one, other) in enumerate(zip(given, expected, strict=True)):
            if one != other:
                raise MethodError(
                    f"{what} and the truth are of different data: the {kind} at position {position} is {one!r} in one "
                    f"and {other!r} in the other. Give both the same data in the same order."
                )
