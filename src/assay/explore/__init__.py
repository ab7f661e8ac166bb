"""Look at a finished run: a page for people. Reads results only, computes no attribution."""

from assay.explore.report import report

__all__ = ["report"]
