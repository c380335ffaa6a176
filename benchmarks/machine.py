"""What a figure depends on besides the code: memory of the process, device, versions."""

import platform
import re
import resource
from pathlib import Path

import torch
import transformers


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
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def versions() -> dict[str, str]:
    """Versions that a figure depends on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
