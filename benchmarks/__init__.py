"""Measurements against baselines: each proves that both sides compute the same before it times."""
