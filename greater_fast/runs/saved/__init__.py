"""What a run leaves in its folder, whose that is, and how it is gone on with."""
