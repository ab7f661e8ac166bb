"""How work is run: what it will cost, before it starts. No mathematics."""

from assay.runtime.plan import Plan, Step, plan

__all__ = ["Plan", "Step", "plan"]
