"""Compressions fitted to data, and second moments of the features block by block: `eigen:RANK`, logra, trackstar, less."""

from assay.compress.eigenbasis import LONGEST, SAMPLE, Eigenbasis
from assay.compress.elementwise import Elementwise
from assay.compress.factored import Factored
from assay.gradients.sketch import Compression
from assay.methods import LESS, LoGra, TrackStar
from assay.methods.gradient.base import GradientMethod
from assay.moments import AdamMoments
from assay.runtime.curvature import DECOMPOSED
from assay.runtime.steps import Step
from assay.runtime.work import COPIED, DOUBLE, EFFICIENCY, Work

SPEED = DOUBLE * EFFICIENCY
"""Of the measured speed, in float64."""


def prepared(work: Work, compression: Compression, known: AdamMoments | object | None) -> list[Step]:
    """What a compression is fitted by: covariances of the sides and their eigenvectors; a mean squared gradient, unless
    Adam's is `known`.
    """
    base = compression.base if isinstance(compression, Elementwise) else compression
    share, seconds = min(1.0, SAMPLE / len(work.train)), 0.0
    once = share * (work.floor(work.data) + work.slow(work.data) + work.encoded(work.data))
    if isinstance(base, Eigenbasis):
        long = [n for b in work.layout.blocks for n in (b.rows, b.cols) if base.rank < n <= LONGEST]
        seconds += once + share * work.computed(2 * work.data.positions * sum(n**2 for n in long), SPEED)
        seconds += work.computed(DECOMPOSED * sum(n**3 for n in long))
    if isinstance(compression, Elementwise) and known is None:
        seconds += once + share * work.moved(COPIED * work.data.examples * work.numbers)
    return [Step("compression fitted", seconds)] if seconds else []


def solved(work: Work, method: GradientMethod, compression: Compression, queries: int) -> tuple[list[Step], float]:
    """Second moments of n rows in d dimensions a block: `2 n d m` operations with m = min(n, d), a Cholesky factor of
    m^3 / 3, lengths of the rows as `2 n d^2`; and the bytes of all that.
    """
    if isinstance(method, LESS):
        width, n = work.width(compression), len(work.train)
        return [Step("rows alike", work.moved(6 * n * width))], 8.0 * width
    if not isinstance(method, LoGra | TrackStar):
        return [], 0.0
    n, sizes = len(work.train), dimensions(work, compression)
    smaller = [min(n, d) for d in sizes]
    moments = sum(2 * n * d * m for d, m in zip(sizes, smaller, strict=True))
    factors = sum(m**3 / 3 for m in smaller)
    turned = sum(2 * d * m + 2 * m**2 for d, m in zip(sizes, smaller, strict=True))
    rows = n if isinstance(method, TrackStar) or method.relative else 0
    steps = [
        Step("second moments", work.computed(moments + factors, SPEED)),
        Step("queries and lengths", work.computed((queries + rows) * turned, SPEED)),
    ]
    held = sum(8 * (2 * m**2 + d * m) for d, m in zip(sizes, smaller, strict=True))
    if isinstance(method, TrackStar):
        both = work.computed(sum(DECOMPOSED / 4 * m**3 for m in smaller))
        steps.append(Step("eigenvalues, and the mixture's factor", 2 * both + work.computed(factors, SPEED)))
        held *= 2
    return steps, held


def dimensions(work: Work, compression: Compression) -> list[int]:
    """Numbers of a feature that belong to each block; all of them where blocks share their place."""
    base = compression.base if isinstance(compression, Elementwise) else compression
    if isinstance(base, Factored):
        return [min(base.rank, b.rows) * min(base.rank, b.cols) for b in work.layout.blocks]
    if work.width(base) == work.numbers:
        return [b.size for b in work.layout.blocks]
    return [work.width(base)]
