"""Methods that only ask a model, here or behind a server; no gradients."""
