"""Methods that differentiate through the training run itself."""
