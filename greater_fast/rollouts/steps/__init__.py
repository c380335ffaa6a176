"""One step of the model over a plan, and what is read from it."""
