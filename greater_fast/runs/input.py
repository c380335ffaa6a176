"""Errors of input, told apart from errors inside by their class."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

from greater_fast.wording import quoted


class InputError(ValueError):
    """Input that cannot work, found before any expensive work; the message says what to change."""


@contextlib.contextmanager
def checking_input() -> Iterator[None]:
    """Where input is read and checked: every ValueError from within is an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        told = InputError(str(error)).with_traceback(error.__traceback__)
        raise told from error.__cause__


def check_callable(name: str, given: Any, takes: tuple[str, ...]) -> None:
    """Refuse what cannot be called with so many values.

    Raises:
        ValueError: says what it is, or takes.
    """
    wanted = f"a function of {' and '.join(takes)}"
    if not callable(given):
        raise ValueError(f"{name}: got {quoted(given)}, expected {wanted}")
    if inspect.iscoroutinefunction(given):
        raise ValueError(f"{name}: got an async function, expected {wanted} that is not")
    try:
        signature = inspect.signature(given)
    except (TypeError, ValueError):  # some of C tell nothing
        return
    try:
        signature.bind(*takes)
    except TypeError as error:
        raise ValueError(f"{name}: got one that takes {signature}, expected {wanted}") from error
