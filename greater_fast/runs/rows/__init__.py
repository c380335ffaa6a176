"""Rows of an evaluation: what is asked of an engine, which a run has seen, how they are written."""
