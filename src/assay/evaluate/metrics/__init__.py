"""Metrics: how well scores predict what training really does, one file each."""

from assay.evaluate.metrics.cardinality import cardinality
from assay.evaluate.metrics.comparison import Comparison
from assay.evaluate.metrics.lds import lds
from assay.evaluate.metrics.leave_one_out import leave_one_out
from assay.evaluate.metrics.mislabelled import mislabelled
from assay.evaluate.metrics.overlap import overlap, stability
from assay.evaluate.metrics.randomised import randomised
from assay.evaluate.metrics.removal import removal
from assay.evaluate.metrics.retrieval import planted, tracing
from assay.evaluate.metrics.tail_patch import tail_patch

__all__ = [
    "Comparison",
    "cardinality",
    "lds",
    "leave_one_out",
    "mislabelled",
    "overlap",
    "planted",
    "randomised",
    "removal",
    "stability",
    "tail_patch",
    "tracing",
]
