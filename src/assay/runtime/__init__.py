"""How work is run: what it will cost, before it starts. No mathematics."""

from assay.runtime.plan import plan
from assay.runtime.steps import Plan, Step

__all__ = ["Plan", "Step", "plan"]
