"""Products with the whole vocabulary: scores of candidates, log-probabilities, samples."""
