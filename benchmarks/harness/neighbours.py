"""What a second run on the same cores costs, by how threads wait for each other.

python -m benchmarks.harness.neighbours      prints a line for each; on a quiet machine, ten minutes
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from benchmarks.harness.continuations import BatchCase
from benchmarks.harness.measure import ROOT

# The libraries' default, the command line's, and no spinning at all.
WAITING: tuple[dict[str, str], ...] = (
    {},
    {"GOMP_SPINCOUNT": "1000"},
    {"OMP_WAIT_POLICY": "PASSIVE"},
)
CASES = (BatchCase(num_sequences=8, new_tokens=24), BatchCase(num_sequences=48, new_tokens=8))


def seconds_of(case: BatchCase, waiting: dict[str, str], num_processes: int) -> list[float]:
    """Seconds of a run in each of some processes that run at the same time."""
    command = [sys.executable, "-m", "benchmarks.harness.continuations", "ours"]
    command += ["--json", json.dumps(asdict(case))]
    own = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    own |= {"OMP_NUM_THREADS": str(case.num_threads)} | waiting
    options: dict[str, Any] = {"cwd": ROOT, "env": own, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, **options) for _ in range(num_processes)]
    outputs = [process.communicate()[0] for process in running]
    return [json.loads(output.splitlines()[-1])["seconds"] for output in outputs]


def main() -> None:
    """Print seconds alone, and those of the slower of two."""
    for case in CASES:
        for waiting in WAITING:
            (alone,) = seconds_of(case, waiting, 1)
            beside = max(seconds_of(case, waiting, 2))
            name = " ".join(f"{k}={v}" for k, v in waiting.items()) or "default"
            print(
                f"{case.num_sequences} sequences, {name}: alone {alone:.2f} s, "
                f"beside another {beside:.2f} s, {beside / alone:.1f} times as long",
                flush=True,
            )


if __name__ == "__main__":
    main()
