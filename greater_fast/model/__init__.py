"""One loaded model."""
