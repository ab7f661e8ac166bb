"""Evidence: does a score predict what training would do?"""

from assay.evaluate.agreement import agreement
from assay.evaluate.one_step import one_step_check

__all__ = ["agreement", "one_step_check"]
