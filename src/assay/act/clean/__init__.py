"""Cleaning: flag the examples of least value, say why, and write the data without them."""

from assay.act.clean.flag import flag
from assay.act.clean.neighbours import nearest, neighbours
from assay.act.clean.write import write_without

__all__ = ["flag", "nearest", "neighbours", "write_without"]
