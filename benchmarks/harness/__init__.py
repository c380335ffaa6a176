"""What the benchmarks share: cases, sides, clocks, figures."""
