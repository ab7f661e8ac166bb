"""Values from training dynamics: what the model thought of each example along the run. One file a method."""
