"""A micro-batch through the model and back."""
