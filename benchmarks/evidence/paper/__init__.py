"""What `reproduce_paper` runs: the tasks of the paper, and cells of its table."""
