"""One part of what run_gpu.sh measures, in a process of its own; results/<device>.json takes it in.

    python -m benchmarks.gpu.main PART [--smoke] [--out FOLDER]

No pytest here: a GPU machine may have none. --smoke takes tiny shapes, on a CPU too.
"""

import argparse
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.gpu.model import FULL, SMOKE, Found, GpuCase
from benchmarks.gpu.rollouts import rollouts, texts
from benchmarks.gpu.step import capped, reference, step
from benchmarks.harness.machine import best_seconds, device_name, versions
from benchmarks.harness.measure import ROOT
from benchmarks.harness.op_sides import check, ours, plain_torch
from benchmarks.harness.ops import floors, full_case, make_arguments, small_case
from benchmarks.report import RESULTS, merge


def kernels(case: GpuCase, smoke: bool) -> Found:
    """Each op: no further from float32 than torch is, then seconds and shares of the rates."""
    work = {}
    for op, backward in (
        ("vocabulary_top_k", False),
        ("target_logprob", False),
        ("target_logprob", True),
        ("paged_attention", False),
        ("packed_attention", False),
        ("packed_attention", True),
    ):
        of_op = replace((small_case if smoke else full_case)(op), backward=backward)
        error, arguments = check(of_op), make_arguments(of_op)
        seconds = best_seconds(ours(of_op, arguments), of_op.device)
        work[f"{op} backward" if backward else op] = {
            "error": error,
            "seconds": seconds,
            "torch_seconds": best_seconds(plain_torch(of_op, arguments), of_op.device),
            **floors(of_op, smoke).shares(of_op, seconds),
        }
    lines = [
        f"{op} {found['seconds'] * 1e6:.0f} µs, torch {found['torch_seconds'] * 1e6:.0f} µs, "
        f"{max(found['share_of_copy_rate'], found['share_of_product_rate']):.0%} of the rate"
        for op, found in work.items()
    ]
    return work, "; ".join(lines)


PARTS: dict[str, Callable[[GpuCase, bool], Found]] = {
    part.__name__: part for part in (kernels, rollouts, step, capped, reference, texts)
}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.main")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--smoke", action="store_true", help="tiny shapes: shows that it runs")
    parser.add_argument("--out", type=Path, required=True, help="folder of <device>.json")
    asked = parser.parse_args()
    if asked.smoke and asked.out.resolve() == RESULTS.resolve():
        parser.error(f"--out: got {asked.out} for tiny shapes, which measure nothing")
    work, text = PARTS[asked.part](SMOKE if asked.smoke else FULL, asked.smoke)
    print(f"{asked.part}: {text}")
    if not work:  # it was not run: what was measured before stays
        return
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "versions": versions(),
        "text": text,
        "work": work,
    }
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    threads = None if device.type == "cuda" else torch.get_num_threads()
    merge(asked.out, device_name(device), threads, {f"gpu/{asked.part}": found})


def commit() -> str:
    """What was measured, where git is there to say it."""
    try:
        command = ["git", "rev-parse", "HEAD"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


if __name__ == "__main__":
    main()
