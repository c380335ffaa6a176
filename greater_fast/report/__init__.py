"""A report to look at: runs as one page that needs nothing else."""

from greater_fast.report.write import write_report

__all__ = ["write_report"]
