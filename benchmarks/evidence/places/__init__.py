"""A place of a chain: collected with a model, and signals tried on it from its file alone."""
