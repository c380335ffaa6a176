"""An 8B model's shapes on one GPU."""
