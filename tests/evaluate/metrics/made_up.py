"""Truth and scores made up of numbers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from assay.evaluate.truth import Truth
from assay.provenance import Provenance
from assay.scores import Scores
from assay.tables import Table


def table(kind: str, count: int, sources: Sequence[str | None] | None = None) -> Table:
    ids = [f"{kind}:{row}" for row in range(count)]
    return Table(ids, list(sources or [None] * count), ids, np.arange(count), count)


def scores_of(array: np.ndarray, method: str = "made-up", sources: Sequence[str | None] | None = None) -> Scores:
    n, q = array.shape
    return Scores.of(
        array, table("train", n, sources), table("query", q), Provenance(method=method, parameters={}, unit="x")
    )


def truth_of(masks: np.ndarray, losses: np.ndarray, full: np.ndarray | None = None, family: str = "random") -> Truth:
    """`losses` [m, q] or [seeds, m, q]."""
    runs = losses if losses.ndim == 3 else losses[None]
    full = np.zeros(runs.shape[2]) if full is None else full
    n = masks.shape[1]
    names = tuple(f"subset {j}" for j in range(len(masks)))
    return Truth(
        masks, runs, np.stack([full] * len(runs)), names, tuple(table("train", n).ids),
        tuple(table("query", runs.shape[2]).ids), family, Path("nowhere"),
    )  # fmt: skip
