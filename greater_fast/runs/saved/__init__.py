"""By what a run is gone on with: its folder, what it had finished, and what it was begun with."""
