"""Reweighting: how often each training example is to be drawn."""

from assay.act.reweight.flip import Flip, flip
from assay.act.reweight.write import read_weights, write_weights
from assay.evaluate.reasoning.difficulty import BY, Graded, binned, grade

__all__ = ["BY", "Flip", "Graded", "binned", "flip", "grade", "read_weights", "write_weights"]
