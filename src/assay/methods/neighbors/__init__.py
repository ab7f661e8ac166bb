"""Methods whose proxy of a model is its nearest neighbours, or what its data cost to move onto others."""
