"""From what a user has to questions and gold answers."""
