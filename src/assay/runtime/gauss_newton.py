"""Products with the exact Gauss-Newton matrix: of n examples with q vectors `1 + 3 q` forward passes of them."""

from assay.compress import Identity
from assay.methods import EKFACCG, DataInf, LiSSA
from assay.methods.gradient.lissa import PRODUCTS
from assay.runtime.curvature import fitted
from assay.runtime.steps import Step
from assay.runtime.training import batch_of
from assay.runtime.work import Work

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
            curvature = fitted(work, method, method.fitting_examples)
            return [curvature, Step("products, at most", share * work.captured(work.data, Identity()) + found)]
        case LiSSA():
            series = products(work, method.depth * method.repeats, method.batch_size, queries)
            largest = products(work, PRODUCTS, method.fitting_examples, 1)
            return [Step("products", share * work.captured(work.data, Identity()) + series + largest)]
        case DataInf():
            return [Step("curvature", 2 * share * work.captured(work.data, Identity(), queries))]


def vectors(work: Work, method: EKFACCG | LiSSA | DataInf, queries: int) -> float:
    """Bytes of the vectors that an iteration works on."""
    return 4 * work.numbers * (2 if isinstance(method, DataInf) else 6 * queries)
