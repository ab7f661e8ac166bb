"""Per-example gradients: one rule per layer type, capture by hooks, and the functional path that is the oracle."""
