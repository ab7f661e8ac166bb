"""Values of utterances of speech."""
