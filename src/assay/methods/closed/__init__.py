"""Methods that fit the user's estimator once, or to one round of samples, and read the values off."""
