"""Which examples each retraining keeps: random subsets, all but one, all but the top k of a query, all but a group."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from assay.errors import MethodError
from assay.evaluate.one_step import best_rows, check_ranked
from assay.examples import Examples
from assay.ranking import TopK
from assay.scores import Scores

Masks = Bool[np.ndarray, "m n"]


class Subsets(ABC):
    """A family of subsets of the training examples."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What the family is called; other members have another name."""

    @abstractmethod
    def members(self, train: Examples) -> tuple[tuple[str, ...], Masks]:
        """The name of each subset, and its mask: True for the examples that are kept. Raises MethodError."""


@dataclass(frozen=True)
class RandomSubsets(Subsets):
    """`count` subsets of `round(fraction * n)` examples, each drawn without replacement.

    Subset j follows from `seed` and j alone, so that a larger count adds subsets and moves none.
    """

    count: int = 100
    fraction: float = 0.5
    seed: int = 0

    @property
    def name(self) -> str:
        """`random, half seed 0`; the count is not part of it, as more may be added."""
        return f"random, fraction {self.fraction:g}, seed {self.seed}"

    def members(self, train: Examples) -> tuple[tuple[str, ...], Masks]:
        n = len(train)
        kept = round(self.fraction * n)
        if self.count < 1 or not 1 <= kept < n or self.seed < 0:
            raise MethodError(
                f"{self.count} random subsets with a fraction of {self.fraction} of {n} examples (seed {self.seed}) were "
                "asked for; give a count and a seed of at least 1 and 0, and a fraction that keeps some and drops some."
            )
        masks = np.zeros((self.count, n), dtype=np.bool_)
        for j in range(self.count):
            masks[j, np.random.default_rng((self.seed, j)).permutation(n)[:kept]] = True
        return tuple(f"random {j}" for j in range(self.count)), masks


@dataclass(frozen=True)
class LeaveOneOut(Subsets):
    """All examples but one: for each of `count` drawn by `seed`, or for every one (None)."""

    count: int | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        """`leave one out`, of all or of a sample."""
        return "leave one out" if self.count is None else f"leave one out, seed {self.seed}"

    def members(self, train: Examples) -> tuple[tuple[str, ...], Masks]:
        n = len(train)
        count = n if self.count is None else self.count
        if not 1 <= count <= n or n < 2:
            raise MethodError(
                f"{count} of {n} examples were to be left out, one by one; give a count between 1 and {n}."
            )
        rows = np.arange(n) if self.count is None else np.random.default_rng(self.seed).permutation(n)[:count]
        masks = np.ones((count, n), dtype=np.bool_)
        masks[np.arange(count), rows] = False
        ids = train.ids
        return tuple(f"without {ids[row]}" for row in rows.tolist()), masks


@dataclass(frozen=True, eq=False)
class LeaveTopOut(Subsets):
    """For each query, all examples but the `k` that score highest for it: subset q belongs to query q."""

    scores: Scores = field(repr=False)
    k: int = 10

    @property
    def name(self) -> str:
        """`without the top 10 of graddot (1f0c...)`: method, and a digest of the rows."""
        digest = hashlib.sha256(repr(best_rows(self.scores, self.k)).encode()).hexdigest()[:8]
        return f"without the top {self.k} of {self.scores.method} ({digest})"

    def members(self, train: Examples) -> tuple[tuple[str, ...], Masks]:
        if self.scores.train.total != len(train):
            raise MethodError(
                f"The scores are of {self.scores.train.total} training examples and {len(train)} were given; "
                "give the examples that were scored."
            )
        check_ranked(self.k, len(train) - 1)
        if isinstance(self.scores.entries, TopK) and self.scores.entries.k < self.k:
            raise MethodError(f"The scores hold the {self.scores.entries.k} best of each query, fewer than k={self.k}.")
        masks = np.ones((len(self.scores.queries), len(train)), dtype=np.bool_)
        for q, rows in enumerate(best_rows(self.scores, self.k)):
            masks[q, rows] = False
        return tuple(f"for {query}" for query in self.scores.query_ids), masks


@dataclass(frozen=True)
class LeaveGroupOut(Subsets):
    """All examples but one group: by `"source"`, by `"label"`, or by a group an example (None: never left out)."""

    by: Literal["source", "label"] | Sequence[Any] = "source"

    @property
    def name(self) -> str:
        """`without a source`; of given groups with a digest."""
        if isinstance(self.by, str):
            return f"without a {self.by}"
        return f"without a group ({hashlib.sha256(repr(list(self.by)).encode()).hexdigest()[:8]})"

    def members(self, train: Examples) -> tuple[tuple[str, ...], Masks]:
        given = list({"source": train.sources, "label": train.labels}[self.by] if isinstance(self.by, str) else self.by)
        if len(given) != len(train):
            raise MethodError(f"{len(given)} groups were given for {len(train)} examples; give one an example.")
        groups = [group for group in dict.fromkeys(given) if group is not None]
        if len(set(given)) < 2:
            raise MethodError(
                f"There are fewer than two groups by {self.by if isinstance(self.by, str) else 'the list given'}, so "
                "leaving one out leaves nothing or everything. Give the examples a source, or a list of groups."
            )
        position = {group: j for j, group in enumerate(groups)}
        masks = np.ones((len(groups), len(train)), dtype=np.bool_)
        inside = [(position[group], row) for row, group in enumerate(given) if group is not None]
        masks[tuple(np.array(inside).T)] = False
        return tuple(f"without {group}" for group in groups), masks
