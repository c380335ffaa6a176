"""A prompt in the text of a row: what joins it, which ids are its own, and whether all fits."""
