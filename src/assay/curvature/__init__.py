"""Curvature of the training objective: fitted once to training data, applied to the few queries."""
