"""Procedures that the benchmarks compare with; none of them imports greater_fast."""
