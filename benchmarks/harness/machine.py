"""What a figure depends on besides the code: memory of the process, device, versions."""

import platform
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

from greater_fast.runs.directory import processor_name


class PeakMemory:
    """The high-water mark above the memory in use when this was made: resident, or a GPU's."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.counter = "cuda allocator" if device.type == "cuda" else "VmHWM"
        self.base = self._read("VmRSS")

    def restart(self) -> None:
        """Forget earlier peaks; where Linux forbids it, those of loading stay in the figure."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self.counter = "ru_maxrss"

    def peak_bytes(self) -> int:
        """The peak since the last restart."""
        if self.counter == "ru_maxrss":
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - self.base
        return self._read("VmHWM") - self.base

    def _read(self, field: str) -> int:
        if self.device.type == "cuda":
            read = {"VmRSS": torch.cuda.memory_allocated, "VmHWM": torch.cuda.max_memory_allocated}
            return int(read[field](self.device))
        found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found, f"no {field} in /proc/self/status"
        return int(found[1]) * 1024


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor_name() or platform.machine()


def kind_of_device() -> str:
    """What a model will run on: "cpu", or a GPU's name."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def machine() -> str:
    """What a process's seconds are of: the GPU's name or the processor's, and its threads."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return f"{device_name(device)}, {torch.get_num_threads()} threads"


def best_seconds(call: Callable[[], object], device: torch.device, num_runs: int = 5) -> float:
    """Seconds of a call in the fastest of some runs, after one that is not timed.

    A GPU gets ten calls a run, so that it works on one while Python launches the next.
    """
    call()
    num_calls = 10 if device.type == "cuda" else 1
    found = []
    for _ in range(num_runs):
        synchronize(device)
        start = time.perf_counter()
        for _ in range(num_calls):
            call()
        synchronize(device)
        found.append((time.perf_counter() - start) / num_calls)
    return min(found)


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_rate(device: torch.device, num_bytes: int = 1 << 28) -> float:
    """Bytes a second of a large copy, read and written: the floor of all that moves memory."""
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / best_seconds(lambda: target.copy_(source), device)


def product_rate(
    device: torch.device, dtype: torch.dtype = torch.float32, size: int = 2048
) -> float:
    """FLOP a second of a square matrix product: the floor of all that multiplies."""
    # Random numbers: a GPU multiplies equal ones at less power, and so at a higher clock.
    generator = torch.Generator(device).manual_seed(0)
    shape = (2, size, size)
    one, other = torch.randn(shape, dtype=dtype, device=device, generator=generator)
    return 2 * size**3 / best_seconds(lambda: one @ other, device)


def versions() -> dict[str, str]:
    """Versions that a figure depends on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
