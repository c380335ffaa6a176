"""Sizes in bytes: written and read as text, of a device's memory, and whether it has ended."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from greater_fast.ranks import RankLostError
from greater_fast.wording import quoted

_UNITS = ("", "k", "m", "g", "t")
_SIZE = re.compile(r"(\d+\.?\d*|\.\d+)(?:(e\d+)|\s*([kmgt]i?b|b))?", re.IGNORECASE)
_MOST = 1 << 60  # more than any machine has
CONTEXT_BYTES = 1 << 29  # about what a process takes of a GPU before any tensor is there
# Of RuntimeErrors, which is all that torch raises where a CPU's memory ends, or a library's.
_NO_MEMORY = re.compile(
    "can.?t allocate memory|cannot allocate memory|(out of|not enough) memory|alloc_failed",
    re.IGNORECASE,
)
_CALLERS = "is_callers_own"  # in the attributes of an error
_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)

_CGROUP_USED = ("memory.current", "memory.usage_in_bytes")
# Of files that were read: in older groups the first are without those of groups within.
_CGROUP_FILES = (("inactive_file", "active_file"), ("total_inactive_file", "total_active_file"))


def parse_bytes(text: str) -> int:
    """Bytes of "24GiB" (1024 ** 3), "24GB" (1000 ** 3), "8e9" or "8000000000".

    Raises:
        ValueError: the text is none of these, or names no byte at all, or more than there can be.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"got {quoted(text, 40)}, expected a size such as 24GiB, 24GB or 8e9")
    number, exponent, unit = found.groups()
    unit = (unit or "").lower()
    factor = (1024 if "i" in unit else 1000) ** _UNITS.index(unit.removesuffix("b").rstrip("i"))
    amount = float(number + (exponent or "")) * factor
    if not 1 <= amount <= _MOST:
        raise ValueError(
            f"got {quoted(text, 40)}, expected at least one byte and at most {_MOST >> 40} TiB"
        )
    return int(amount)


def format_bytes(size: int) -> str:
    """A size for a reader, in the largest binary unit that leaves a number of at least 1."""
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << power:
            return f"{size / (1 << power):.2f} {unit}"
    return f"{size} B"


def memory_bytes(device: torch.device, own_bytes: int = 0) -> int:
    """All memory that a run may take of a device, its own context and tensors included.

    Of a GPU that is torch's share, less what other processes hold and what this one holds beside
    `own_bytes`, the run's own; of a machine its RAM, or the limit of the control group (a
    container's) where that is lower.
    """
    if device.type in ("cpu", "mps"):
        ram = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return min([ram, *filter(None, map(_limit, _CGROUP_LIMITS))])
    free: int
    total: int
    free, total = torch.get_device_module(device).mem_get_info(device)
    if device.type != "cuda":
        return total
    share = int(total * torch.cuda.get_per_process_memory_fraction(device))
    others = max(0, total - free - torch.cuda.memory_reserved(device) - CONTEXT_BYTES)
    others += max(0, torch.cuda.memory_allocated(device) - own_bytes)
    return min(share, total - others)


def free_bytes(device: torch.device) -> int | None:
    """Memory that can still be had: within torch's share of a GPU, or of the machine's RAM.

    None where there is no telling.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_allocated(device) + _idle_bytes_of_graphs(device)
        cached = torch.cuda.memory_reserved(device) - held
        share = torch.cuda.get_per_process_memory_fraction(device) * total - held
        return max(0, int(min(free + cached, share)))
    if device.type != "cpu":
        return None
    left = [_free_of_machine(), *(_left_of(file) for file in _CGROUP_LIMITS)]
    return min((free for free in left if free is not None), default=None)


def _free_of_machine() -> int | None:
    """RAM that can still be had, whoever may have it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        return int(kilobytes) * 1024
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _idle_bytes_of_graphs(device: torch.device) -> int:
    """Memory of private pools that no tensor has: a CUDA graph's is for its next replay alone.

    CUDA's own allocator tells of none.
    """
    if torch.cuda.get_allocator_backend() != "native":
        return 0
    # torch's stubs do not know that "cuda" alone has no index
    index = torch.cuda.current_device() if device.index is None else device.index  # type: ignore[redundant-expr]
    return sum(
        segment["total_size"] - segment["allocated_size"]
        for segment in torch.cuda.memory_snapshot()
        if segment["device"] == index and segment["segment_pool_id"] != (0, 0)
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of a device, or of the machine, has ended.

    What was raised from such an error counts too, but where it has cost a rank: that says more. An
    error of a caller's own function is the caller's, whatever it says.
    """
    if isinstance(error, RankLostError) or is_callers(error):
        return False
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


@contextlib.contextmanager
def callers_errors() -> Iterator[None]:
    """Mark what a caller's own function raises: less of our memory would not help it."""
    try:
        yield
    except Exception as error:
        vars(error)[_CALLERS] = True
        raise


def is_callers(error: BaseException) -> bool:
    """Whether an error was marked as a caller's own."""
    return _CALLERS in vars(error)


@contextlib.contextmanager
def memory_errors_explained(device: torch.device) -> Iterator[None]:
    """Where memory ends and nothing says so to a user: a MemoryError that says what to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        is_explained = type(error) is MemoryError and error.args
        if is_explained or not is_out_of_memory(error):
            raise
        raise MemoryError(
            f"the memory of {device} has ended: lower kv_cache_bytes, max_step_tokens, batch_size "
            "or max_new_tokens, or use a smaller model"
        ) from error


def _limit(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # none there, or "max"
        return None


def _left_of(limit_file: Path) -> int | None:
    """What a control group has left of its limit; None where it has none.

    Files that were read count as used there, and make room when it is needed.
    """
    limit, folder = _limit(limit_file), limit_file.parent
    used = next(filter(None, (_limit(folder / name) for name in _CGROUP_USED)), None)
    if limit is None or used is None:
        return None
    try:
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        stat = {name: int(number) for name, number in map(str.split, lines)}
    except (OSError, ValueError):
        stat = {}
    files = max(sum(stat.get(name, 0) for name in names) for names in _CGROUP_FILES)
    return max(0, limit - used + files)
