"""What one rank sends another: a value, or the error that came in its place."""

from __future__ import annotations

import pickle
import traceback
from typing import Any, NamedTuple

_SHARED = "is_shared"  # in the attributes of an error


class Message(NamedTuple):
    """A value, or what came in its place."""

    value: Any
    error: BaseException | None

    def packed(self) -> bytes:
        """Bytes for other ranks; an error that cannot be pickled goes as its text."""
        if self.error is None:
            return pickle.dumps((self.value, None))
        frames = "".join(traceback.format_exception(self.error))
        try:
            packed = pickle.dumps((frames, self.error))
            pickle.loads(packed)  # noqa: S301 (a rank of this job's)
        except Exception:  # whatever somebody else's class does
            plain = RuntimeError(f"{type(self.error).__name__}: {self.error}")
            marks = {name: True for name, value in vars(self.error).items() if value is True}
            vars(plain).update(marks)  # whose error it is, for one
            packed = pickle.dumps((frames, plain))
        return packed

    @classmethod
    def unpacked(cls, content: bytes) -> Message:
        """What another rank sent; the frames of an error come as its cause."""
        value, error = pickle.loads(content)  # noqa: S301 (a rank of this job's)
        if error is not None:
            error.__cause__ = _ElsewhereError(f"\n{value}")
        return cls(value, error)


class _ElsewhereError(Exception):
    """An error as it stood on another rank, as text."""


def from_rank(rank: int, error: BaseException) -> BaseException:
    """An error of another rank, to be raised here too."""
    error.add_note(f"on rank {rank}")
    mark_shared(error)
    return error


def mark_shared(error: BaseException) -> None:
    """Note that all ranks know of an error."""
    vars(error)[_SHARED] = True


def is_shared(error: BaseException) -> bool:
    """Whether all ranks know of an error."""
    return _SHARED in vars(error)
