"""Methods that compare gradients of the model."""
