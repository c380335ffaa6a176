"""What to say where a front end's packages are missing."""

from __future__ import annotations


def needs(extra: str, error: ImportError) -> ImportError:
    """The error to raise where an extra of this package was not installed."""
    return ImportError(
        f"the front end {extra} needs packages that are not installed: "
        f"pip install 'greater-fast[{extra}]' ({error})"
    )
