"""Why a module is left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from greater_fast.model.byte_sizes import is_out_of_memory

Found = TypeVar("Found")


class RefusedError(Exception):
    """A module of a known kind that cannot be taken over; the text says why, in a few words."""


def found_or_refused(find: Callable[[], Found | None], reason: str) -> Found:
    """What `find` finds, without a gradient.

    Raises:
        RefusedError: it finds nothing, or the module is of another form; for `reason`.
    """
    try:
        with torch.no_grad():
            found = find()
    except Exception as error:  # of Triton's compiler, too, which has kinds of its own
        if is_out_of_memory(error):
            raise
        raise RefusedError(reason) from error
    if found is None:
        raise RefusedError(reason)
    return found
