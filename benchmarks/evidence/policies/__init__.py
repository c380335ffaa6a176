"""Which rule of a step gains most? Policies tried on stored chains, and in simulated searches."""
