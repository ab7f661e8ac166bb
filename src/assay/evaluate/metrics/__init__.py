"""Metrics: how well scores predict what training really does, one file each."""

from assay.evaluate.metrics.comparison import Comparison
from assay.evaluate.metrics.lds import lds

__all__ = ["Comparison", "lds"]
