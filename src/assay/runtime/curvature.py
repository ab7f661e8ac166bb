"""Curvature by factors: passes over the fitting examples, second moments of each layer's sides, eigendecompositions."""

from assay.compress import Identity
from assay.curvature.covariance import WIDEST
from assay.methods import EKFAC, EKFACCG, KFAC, DataInf, Diagonal
from assay.methods.gradient.influence import InfluenceMethod
from assay.runtime.steps import Step
from assay.runtime.work import Work

DECOMPOSED = 20
"""Operations of an eigendecomposition in float64, as a multiple of the matrix's size cubed."""


def sides(work: Work) -> list[int]:
    """Lengths of the sides of which a matrix of second moments is taken."""
    return [n for b in work.layout.blocks if b.cols > 1 for n in (b.rows, b.cols) if n <= WIDEST]


def fitted(work: Work, method: InfluenceMethod | EKFACCG, rows: int) -> Step:
    """K-FAC: a pass, two matrices a layer and their eigenvectors. EK-FAC: one more pass, and each gradient turned.
    Diagonal: a pass, and each gradient squared.
    """
    share, data = min(1.0, rows / len(work.train)), work.data
    factored, corrected = not isinstance(method, Diagonal), not isinstance(method, KFAC)
    one = work.floor(data) + work.slow(data) + work.encoded(data)
    seconds = share * (factored + corrected) * one
    if factored:
        squares, cubes = sum(n**2 for n in sides(work)), sum(n**3 for n in sides(work))
        seconds += share * work.computed(2 * squares * data.positions) + work.computed(DECOMPOSED * cubes)
    if corrected and work.positions(data) <= 1:  # squares of products are products of squares
        seconds += share * work.computed(2 * data.positions * work.numbers)
    elif corrected:
        seconds += share * work.compressed(data, Identity())
    if corrected and factored:
        turned = sum(b.size * (b.rows + b.cols) for b in work.layout.blocks if b.cols > 1)
        seconds += share * min(work.computed(2 * data.examples * turned), turned_positions(work))
    if getattr(method, "damping", None) == "cv":
        seconds *= 2
    return Step("curvature", seconds + work.check(1))


def turned_positions(work: Work) -> float:
    """The sides of all positions turned instead of the gradients."""
    return work.computed(2 * work.data.positions * sum(n**2 for n in sides(work)))


def held(work: Work, method: InfluenceMethod | EKFACCG | EKFAC | DataInf) -> float:
    """Bytes of a fitted curvature while it is fitted."""
    factored, corrected = not isinstance(method, Diagonal), not isinstance(method, KFAC)
    squares = sum(n**2 for n in sides(work)) if factored else 0
    widest = max(sides(work), default=0) if factored else 0
    decomposing = 3 * 8 * widest**2
    return 4 * work.numbers + 4 * squares + 12 * (work.numbers if corrected else squares) + decomposing
