"""Evidence: does a score predict what training would do?"""

from assay.evaluate.agreement import agreement
from assay.evaluate.metrics.comparison import Comparison
from assay.evaluate.metrics.lds import lds
from assay.evaluate.one_step import one_step_check
from assay.evaluate.subsets import LeaveGroupOut, LeaveOneOut, LeaveTopOut, RandomSubsets, Subsets
from assay.evaluate.truth import Truth, truth

__all__ = [
    "Comparison",
    "LeaveGroupOut",
    "LeaveOneOut",
    "LeaveTopOut",
    "RandomSubsets",
    "Subsets",
    "Truth",
    "agreement",
    "lds",
    "one_step_check",
    "truth",
]
