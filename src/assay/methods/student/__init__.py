"""Values by a small student of the model's own, which others can run without the model."""
