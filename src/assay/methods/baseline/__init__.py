"""What scores look like that know nothing."""

from assay.methods.baseline.random import Random

__all__ = ["Random"]
