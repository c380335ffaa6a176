"""The method: the loop and its stages."""
