"""Does the search work? Accuracy beside controls."""
