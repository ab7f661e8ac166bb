"""Scores out of blocks of queries: dense, or the best at both ends without ever holding the whole matrix."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from assay.examples import Examples
from assay.methods.base import Fitted, Method
from assay.progress import task
from assay.provenance import Provenance, measured
from assay.ranking import TopK
from assay.scores import Scores

BLOCK_SCORES = 2**22  # scores computed at once, unless a single query already has more

Scorer = Callable[[Examples], np.ndarray]
"""Scores of all training examples for a few queries, [n_train, n_query]."""


@runtime_checkable
class Named(Protocol):
    """A model of any kind, as a result names it."""

    @property
    def name(self) -> str:
        """What the user calls it."""
        ...

    def fingerprint(self) -> str:
        """A hash of its content."""
        ...


@dataclass(frozen=True)
class Streamed(Fitted):
    """A method that scores any block of queries on its own.

    `seconds` is what fitting took. `model` is the one that was asked; most methods have none.
    `notes` says, given the queries, what there is to tell.
    """

    method: Method
    train: Examples
    scorer: Scorer
    seconds: float
    model: Named | None = None
    notes: Callable[[Examples], tuple[str, ...]] = lambda queries: ()

    def score(self, queries: Examples, top: int | None = None) -> Scores:
        """Dense scores, or the `top` best at both ends; memory O(n_train) beside the result."""
        with measured(self.seconds) as cost:
            entries = self._dense(queries) if top is None else TopK.of_columns(self._columns(queries), top)
        named = {} if self.model is None else {"model": self.model.name}
        provenance = Provenance(
            method=self.method.name,
            parameters=self.method.parameters(),
            unit=self.method.unit,
            inputs=named | {"train": self.train.origin, "queries": queries.origin},
            model_fingerprint=None if self.model is None else self.model.fingerprint(),
            train_fingerprint=self.train.fingerprint(),
            query_fingerprint=queries.fingerprint(),
            seconds=cost.seconds,
            peak_memory=cost.peak_memory,
            notes=self.notes(queries),
        )
        return Scores.of(entries, self.train, queries, provenance)

    def _dense(self, queries: Examples) -> Float[np.ndarray, "n_train n_query"]:
        array = np.empty((len(self.train), len(queries)), np.float32)
        for query, column in enumerate(self._columns(queries)):
            array[:, query] = column
        return array

    def _columns(self, queries: Examples) -> Iterator[Float[np.ndarray, " n_train"]]:
        block = max(1, BLOCK_SCORES // max(1, len(self.train)))
        with task(f"scoring with {self.method.name}", len(queries)) as advance:
            for start in range(0, len(queries), block):
                scores = self.scorer(queries[start : start + block])
                yield from scores.T
                advance(scores.shape[1])
