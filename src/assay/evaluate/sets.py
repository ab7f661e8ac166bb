"""What checks compare: each result's top k of every query, and that of BM25, of embeddings and of a blind draw."""

from collections.abc import Mapping, Sequence

import numpy as np

from assay.evaluate.metrics.comparison import by_method
from assay.evaluate.one_step import baseline_rows, best_rows, check_holds, check_ranked, check_scored
from assay.examples import Examples
from assay.methods.base import Method
from assay.methods.baseline.random import Random
from assay.methods.lexical.bm25 import BM25
from assay.methods.lexical.embedding import Embedding
from assay.models import Model
from assay.scores import Scores
from assay.tasks import Task

Sets = dict[str, list[list[int]]]
"""By name, the rows of each query."""
BASELINES = (BM25.name, Embedding.name, Random.name)


def named_sets(
    results: Scores | Sequence[Scores] | Mapping[str, Scores],
    train: Examples,
    queries: Examples,
    k: int,
    model: Model | None = None,
    seed: int = 0,
) -> Sets:
    """The top k of each result, then of the baselines that are not among the results.

    Raises MethodError: scores of other examples, a top-k result with fewer than k, k out of range.
    """
    named = by_method(results)
    check_ranked(k, len(train))
    sets: Sets = {}
    for name, result in named.items():
        check_scored(result, train, queries)
        check_holds(result, k)
        sets[name] = best_rows(result, k)
    there = {result.method for result in named.values()}
    for method in baselines(train, model, seed):
        if method.name not in there:
            sets[method.name] = baseline_rows(method, train, queries, k, model)
    return sets


def baselines(train: Examples, model: Model | None = None, seed: int = 0) -> list[Method]:
    """BM25 for texts, embeddings for a model whose task has representations, and random scores."""
    words: list[Method] = [] if train.kind == "arrays" else [BM25()]
    represented = model is not None and type(model.task).features is not Task.features
    return [*words, *([Embedding()] if represented else []), Random(seed)]


def random_rows(train: Examples, count: int, seed: int) -> list[int]:
    """Positions of `count` examples at random."""
    return np.random.default_rng(seed).permutation(len(train))[:count].tolist()
