"""Samplers: which coalitions are looked at. One file each; every semivalue can use every one of them.

A sampler draws *units* of work, each a function of the seed and its number alone, so that a run can be continued, or
shared by processes, with the same result.
"""

from assay.methods.retrain.samplers.antithetic import Antithetic
from assay.methods.retrain.samplers.base import Flips, Sampler, Subsets, Truncation, Unit, Walk, stream
from assay.methods.retrain.samplers.msr import MaximumReuse
from assay.methods.retrain.samplers.owen import Owen
from assay.methods.retrain.samplers.permutation import Permutation
from assay.methods.retrain.samplers.stratified import Stratified
from assay.methods.retrain.samplers.uniform import Uniform

MARGINAL: tuple[type[Sampler], ...] = (Permutation, Antithetic, Stratified, Uniform, Owen)
"""Samplers whose units give every player a marginal contribution."""

__all__ = [
    "MARGINAL", "Antithetic", "Flips", "MaximumReuse", "Owen", "Permutation", "Sampler", "Stratified", "Subsets",
    "Truncation", "Uniform", "Unit", "Walk", "stream",
]  # fmt: skip
