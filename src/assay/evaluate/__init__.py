"""Evidence: does a score predict what training would do?"""

from assay.evaluate.agreement import agreement
from assay.evaluate.curves import ByValue, Curves, curves
from assay.evaluate.metrics import (
    Comparison,
    cardinality,
    lds,
    leave_one_out,
    mislabelled,
    overlap,
    planted,
    randomised,
    removal,
    stability,
    tail_patch,
    tracing,
)
from assay.evaluate.one_step import one_step_check
from assay.evaluate.reasoning import Reasoning, reasoning, sentence_deletion, solved
from assay.evaluate.recommend import Recommendation, recommend
from assay.evaluate.reliability import Reliability, reliability
from assay.evaluate.subsets import LeaveGroupOut, LeaveOneOut, LeaveTopOut, RandomSubsets, Subsets
from assay.evaluate.trust import Trust, trust
from assay.evaluate.truth import Truth, truth

__all__ = [
    "ByValue",
    "Comparison",
    "Curves",
    "LeaveGroupOut",
    "LeaveOneOut",
    "LeaveTopOut",
    "RandomSubsets",
    "Reasoning",
    "Recommendation",
    "Reliability",
    "Subsets",
    "Trust",
    "Truth",
    "agreement",
    "cardinality",
    "curves",
    "lds",
    "leave_one_out",
    "mislabelled",
    "one_step_check",
    "overlap",
    "planted",
    "randomised",
    "reasoning",
    "recommend",
    "reliability",
    "removal",
    "sentence_deletion",
    "solved",
    "stability",
    "tail_patch",
    "tracing",
    "trust",
    "truth",
]
