"""How much work a run is, how long it takes, and how it ends in time."""
