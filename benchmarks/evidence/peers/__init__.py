"""The arms of `benchmarks.peers`: GReaTer beside the optimizers of promptolution."""
