"""A whole step of 8B shapes on a GPU: as it is, under a cap, beside the reference procedure."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import torch

from benchmarks.gpu.model import GIB, Found, GpuCase, random_lm, timed
from benchmarks.harness.measure import StepCase, StepInputs, lay_out, ours_step, reference_step
from greater_fast.model.lm import LM
from greater_fast.search import optimizer
from greater_fast.search.meter import Meter

CAP_BYTES = 24 * GIB


def step(case: GpuCase, smoke: bool) -> Found:
    """A whole step of ours: seconds and peak memory, stage by stage."""
    return whole_step(random_lm(smoke), case, case.kv_cache_bytes)


def capped(case: GpuCase, smoke: bool) -> Found:
    """The same under a cap of 24 GiB."""
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, CAP_BYTES / total))
    return whole_step(random_lm(smoke), case, case.capped_kv_cache_bytes)


def whole_step(lm: LM, case: GpuCase, kv_cache_bytes: int) -> Found:
    """Run one step after the incumbent was scored."""
    inputs = step_inputs(lm, case, case.num_rows, kv_cache_bytes)
    with stage_peaks(lm.device) as peaks:
        run = ours_step(inputs)
        peaks.clear()
        seconds, outcome = timed(lm.device, run)
    stages = {
        name: {"seconds": outcome.stage_seconds[name], "peak_bytes": peak}
        for name, peak in peaks.items()
    }
    work = {
        "rows": case.num_rows,
        "new_tokens": case.new_tokens,
        "seconds": seconds,
        "device_bytes": device_bytes(lm.device),
        "stages": stages,
        "generated_tokens": outcome.generated_tokens,
    }
    each = ", ".join(
        f"{name} {found['seconds']:.2f} s {found['peak_bytes'] / GIB:.1f} GiB"
        for name, found in stages.items()
    )
    return work, f"{seconds:.2f} s, {work['device_bytes'] / GIB:.1f} GiB of the device; {each}"


def step_inputs(lm: LM, case: GpuCase, num_rows: int, kv_cache_bytes: int) -> StepInputs:
    """Rows laid out; the end id is one that a random model hardly ever says."""
    of_step = StepCase(
        task="boolean_expressions",
        num_rows=num_rows,
        max_new_tokens=case.new_tokens,
        end_id=lm.vocab_size - 1,
    )
    inputs = lay_out(lm, of_step)
    return replace(inputs, config=replace(inputs.config, kv_cache_bytes=kv_cache_bytes))


@contextmanager
def stage_peaks(device: torch.device) -> Iterator[dict[str, int]]:
    """Peak memory of each stage, by name, while the loop runs; 0 where there is no GPU."""
    peaks: dict[str, int] = {}

    class StageMeter(Meter):
        @contextmanager
        def __call__(self, stage: str) -> Iterator[None]:
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            with super().__call__(stage):
                yield
            peaks[stage] = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0

    with patch.object(optimizer, "Meter", StageMeter):
        yield peaks


def reference(case: GpuCase, smoke: bool) -> Found:
    """One step of the reference procedure on few rows, and ours on the same."""
    lm = random_lm(smoke)
    inputs = step_inputs(lm, case, case.reference_rows, case.capped_kv_cache_bytes)
    seconds, _ = timed(lm.device, ours_step(inputs))
    reference_seconds, _ = timed(lm.device, reference_step(inputs))
    work = {
        "rows": case.reference_rows,
        "new_tokens": case.new_tokens,
        "seconds": seconds,
        "reference_seconds": reference_seconds,
        "ratio": reference_seconds / seconds,
    }
    return work, (
        f"{case.reference_rows} rows: {reference_seconds:.1f} s → {seconds:.2f} s, "
        f"{work['ratio']:.1f}×"
    )


def device_bytes(device: torch.device) -> int:
    """Most of the device that this process had: torch's reserve, and the context beside it."""
    if device.type != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info(device)
    beside = total - free - torch.cuda.memory_reserved(device)
    return beside + torch.cuda.max_memory_reserved(device)
