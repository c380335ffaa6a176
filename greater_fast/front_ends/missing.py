"""What to say where a front end's packages are missing."""

from __future__ import annotations

import sys

# Extras that install nothing from a Python on, as pyproject.toml has it.
_UNTIL = {"promptolution": (3, 13)}


def is_offered(extra: str) -> bool:
    """Whether an extra of this package installs anything on this Python."""
    return extra not in _UNTIL or sys.version_info < _UNTIL[extra]


def needs(extra: str, error: ImportError) -> ImportError:
    """The error to raise where an extra of this package was not installed, or cannot be."""
    if is_offered(extra):
        return ImportError(
            f"the front end {extra} needs packages that are not installed: "
            f"pip install 'greater-fast[{extra}]' ({error})"
        )
    own, first = ("{}.{}".format(*version) for version in (sys.version_info, _UNTIL[extra]))
    return ImportError(
        f"the front end {extra} needs packages that there are none of for Python {own}: use one "
        f"before {first} ({error})"
    )
