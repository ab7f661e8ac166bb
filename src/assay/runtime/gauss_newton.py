"""Products with the exact Gauss-Newton matrix: of n examples with q vectors `1 + 3 q` forward passes of them."""

from assay.compress import Identity
from assay.methods import EKFACCG, DataInf, LiSSA
from assay.methods.gradient.lissa import PRODUCTS
from assay.runtime.curvature import fitted
from assay.runtime.steps import Step
from assay.runtime.training import batch_of
from assay.runtime.work import COPIED, THIN, Work

VECTORS = 6
"""Times that each number of each vector is read or written in an iteration."""


def products(work: Work, count: int, rows: int, queries: int) -> float:
    """So many products of all queries with the matrix of so many examples."""
    batch = batch_of(work.data, min(rows, len(work.train)))
    return count * ((1 + 3 * queries) * work.floor(batch, 1.0) + work.moved(VECTORS * queries * work.numbers))


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
            series = products(work, method.depth * method.repeats, method.batch_size, queries)
            largest = products(work, PRODUCTS, method.fitting_examples, 1)
            return [Step("products", share * work.captured(work.data, Identity()) + series + largest)]
        case DataInf():
            return [Step("curvature", 2 * share * folded(work, queries))]


def vectors(work: Work, method: EKFACCG | LiSSA | DataInf, queries: int) -> float:
    """Bytes of the vectors that an iteration works on."""
    if isinstance(method, DataInf):
        window = work.working(Identity(), 1) - work.activations()
        return 4 * window
    return 4 * work.numbers * 6 * queries


def folded(work: Work, queries: int) -> float:
    """A pass over exact features in float64, each multiplied with the queries and added to their folds."""
    n = work.data.examples * work.numbers
    return work.captured(work.data, Identity()) + work.moved(COPIED * n) + work.computed(4 * queries * n / 2, THIN)


def preconditioned(work: Work, queries: int) -> float:
    """The queries into the eigenbasis of each layer and back."""
    turned = sum(b.size * (b.rows + b.cols) for b in work.layout.blocks if b.cols > 1)
    return work.computed(4 * queries * turned)
