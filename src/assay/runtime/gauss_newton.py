"""Products with the exact Gauss-Newton matrix: of n examples with q vectors `1 + 3 q` forward passes of them."""

from dataclasses import replace

from assay.compress import Identity
from assay.curvature.gauss_newton import NUMBERS
from assay.gradients.features import window_rows
from assay.methods import EKFACCG, DataInf, LiSSA
from assay.methods.gradient.lissa import PRODUCTS
from assay.runtime.curvature import fitted
from assay.runtime.steps import Step
from assay.runtime.training import batch_of
from assay.runtime.work import ACTIVATIONS, COPIED, KEPT, TANGENTS, THIN, Work

VECTORS = 6
"""Times that each number of each vector is read or written in an iteration."""


def products(work: Work, count: int, rows: int, queries: int, most: int = 256) -> float:
    """So many products of all queries with the matrix of so many examples, in batches of at most `most`."""
    rows = min(rows, len(work.train))
    batch = batch_of(work.data, rows)
    batches = max(rows / most, share_of(work, rows) * work.data.batches, 1.0)
    once = (1 + 3 * queries) * work.floor(replace(batch, batches=0), 1.0, TANGENTS * ACTIVATIONS)
    return count * (once + batches * work.traced() + work.moved(VECTORS * queries * work.numbers))


def share_of(work: Work, rows: int) -> float:
    """Of the training examples."""
    return rows / len(work.train)


def solves(work: Work, method: EKFACCG | LiSSA | DataInf, queries: int) -> list[Step]:
    """The queries through an inverse matrix that is not kept: products with it, or two gradient passes."""
    share = min(1.0, method.fitting_examples / len(work.train))
    match method:
        case EKFACCG():
            found = products(work, method.iterations, method.fitting_examples, queries)
            found += method.iterations * preconditioned(work, queries)
            curvature = fitted(work, method, method.fitting_examples)
            return [curvature, Step("products, at most", share * work.captured(work.data, Identity()) + found)]
        case LiSSA():
            series = products(work, method.depth * method.repeats, method.batch_size, queries, method.batch_size)
            largest = products(work, PRODUCTS, method.fitting_examples, 1, method.batch_size)
            return [Step("products", share * work.captured(work.data, Identity()) + series + largest)]
        case DataInf():
            return [Step("curvature", 2 * share * folded(work, queries))]


def vectors(work: Work, method: EKFACCG | LiSSA | DataInf, queries: int) -> float:
    """Bytes of the vectors that an iteration works on."""
    if isinstance(method, DataInf):  # a window of features, in float64 too, and a block's squares
        window = 4 * work.numbers * min(window_rows(work.numbers), len(work.train))
        largest = max(block.size for block in work.layout.blocks)
        return work.working(Identity(), 1) - work.activations() + (2 + 2 * largest / work.numbers) * window
    together = work.data.batch * min(queries, max(1, NUMBERS // (work.data.batch * work.network.widest)))
    return 4 * work.numbers * 6 * queries + KEPT * 4 * work.network.held * together


def folded(work: Work, queries: int) -> float:
    """A pass over exact features in float64, each multiplied with the queries and added to their folds."""
    n = work.data.examples * work.numbers
    return work.captured(work.data, Identity()) + work.moved(COPIED * n) + work.computed(4 * queries * n / 2, THIN)


def preconditioned(work: Work, queries: int) -> float:
    """The queries into the eigenbasis of each layer and back."""
    turned = sum(b.size * (b.rows + b.cols) for b in work.layout.blocks if b.cols > 1)
    return work.computed(4 * queries * turned)
