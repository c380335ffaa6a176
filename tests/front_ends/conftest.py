"""Front ends are tested where their packages are: pages of theirs as all pages are."""

from tests.docs.conftest import finished_run, place, short_runs

__all__ = ["finished_run", "place", "short_runs"]
