"""A whole step of 8B shapes on a GPU: as it is, under a cap, beside the reference procedure."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from unittest.mock import patch

import torch

from benchmarks.gpu.floors import ModelWork, Rates, contexts_of, describe_share, rates_text
from benchmarks.gpu.model import (
    GIB,
    Found,
    GpuCase,
    engine_text,
    planned_pool,
    random_lm,
    timed,
)
from benchmarks.harness.measure import (
    StepCase,
    StepInputs,
    StepOutcome,
    lay_out,
    ours_step,
    reference_step,
)
from greater_fast.engine import EngineFacts
from greater_fast.memory.budget import RowLengths
from greater_fast.memory.shapes import ModelShapes
from greater_fast.model.byte_sizes import memory_bytes
from greater_fast.model.lm import LM
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.search import optimizer
from greater_fast.search.meter import Meter

CAP_BYTES = 24 * GIB
REFERENCE_GIB = 10  # beside weights and their gradients: states, logits and a cache


def step(case: GpuCase, smoke: bool) -> Found:
    """A whole step of ours: seconds and peak memory, stage by stage."""
    return whole_step(random_lm(smoke), case, smoke)


def capped(case: GpuCase, smoke: bool) -> Found:
    """The same under a cap of 24 GiB."""
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, CAP_BYTES / total))
    return whole_step(random_lm(smoke), case, smoke)


def whole_step(lm: LM, case: GpuCase, smoke: bool) -> Found:
    """Run one step after the incumbent was scored, its stages beside their floors."""
    inputs = step_inputs(lm, case, case.num_rows)
    rates = Rates.measured(lm, smoke)
    ours_step(inputs)()  # compiles what a run compiles once, and loads what it loads
    with stage_readings(lm.device) as readings:
        run = ours_step(inputs)
        readings.clear()
        seconds, outcome = timed(lm.device, run)
    floors = stage_floors(inputs, outcome, readings, rates)
    stages = {
        name: {
            "seconds": outcome.stage_seconds[name],
            "floor_seconds": floors[name],
            "peak_bytes": reading.peak_bytes,
            "steps": reading.steps,
        }
        for name, reading in readings.items()
    }
    facts = readings["select"].facts
    work = {
        "rows": case.num_rows,
        "new_tokens": case.new_tokens,
        "seconds": seconds,
        "kv_cache_bytes": inputs.config.kv_cache_bytes,
        "device_bytes": device_bytes(lm.device),
        "rates": asdict(rates),
        "stages": stages,
        "generated_tokens": outcome.generated_tokens,
        "engine": asdict(facts),
    }
    each = ", ".join(
        f"{name} {describe_share(found['seconds'], found['floor_seconds'])}, "
        f"{found['peak_bytes'] / GIB:.1f} GiB"
        for name, found in stages.items()
    )
    return work, (
        f"{describe_share(seconds, sum(floors.values()))}, "
        f"{work['device_bytes'] / GIB:.1f} GiB of the device; {each}; {engine_text(facts)}; "
        f"{rates_text(rates)}"
    )


def step_inputs(lm: LM, case: GpuCase, num_rows: int) -> StepInputs:
    """Rows laid out; the end id is one that a random model hardly ever says."""
    of_step = StepCase(
        task="boolean_expressions",
        num_rows=num_rows,
        max_new_tokens=case.new_tokens,
        end_id=lm.vocab_size - 1,
    )
    inputs = lay_out(lm, of_step)
    lengths = RowLengths.of({"train": inputs.layouts}, inputs.config)
    pool = planned_pool(lm, lengths, inputs.config)
    return replace(inputs, config=replace(inputs.config, kv_cache_bytes=pool))


@dataclass(frozen=True, slots=True)
class Reading:
    """What a stage took: peak memory (0 where there is no GPU), steps of the engine; its facts."""

    peak_bytes: int
    steps: int
    facts: EngineFacts


@contextmanager
def stage_readings(device: torch.device) -> Iterator[dict[str, Reading]]:
    """Readings of each stage, by name, while the loop runs."""
    readings: dict[str, Reading] = {}

    class StageMeter(Meter):
        @contextmanager
        def __call__(self, stage: str) -> Iterator[None]:
            assert isinstance(self._models, RolloutEngine)
            before = self._models.facts().steps
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            with super().__call__(stage):
                yield
            peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
            facts = self._models.facts()
            readings[stage] = Reading(peak, facts.steps - before, facts)

    with patch.object(optimizer, "Meter", StageMeter):
        yield readings


def stage_floors(
    inputs: StepInputs, outcome: StepOutcome, readings: dict[str, Reading], rates: Rates
) -> dict[str, float]:
    """Seconds that each stage takes at least, at the rates of the device."""
    work, layouts, ids = ModelWork.of(inputs.lm), inputs.layouts, inputs.position.prompt_ids
    heads = [len(layouts.context_ids(row, ids)) for row in range(len(layouts))]
    targets = [len(layouts.target_ids(row)) for row in range(len(layouts))]
    places = [layouts.prompt_span(row, ids)[0] + inputs.position.index for row in range(len(heads))]
    reasonings = [len(reasoning) for reasoning in outcome.reasonings]
    gradient_tokens = sum(heads) + sum(reasonings) + sum(targets) - sum(places) - len(heads)
    contexts = len(outcome.shortlist) * sum(
        contexts_of(head, reasoning, 1) for head, reasoning in zip(heads, reasonings, strict=True)
    )
    return {
        "propose": work.rollout_seconds(rates, readings["propose"].steps, sum(heads)),
        "gradient": work.gradient_seconds(rates, gradient_tokens),
        "score": work.score_seconds(rates),
        "select": work.rollout_seconds(rates, readings["select"].steps, contexts),
    }


def reference(case: GpuCase, smoke: bool) -> Found:
    """One step of the reference procedure on few rows, and ours on the same."""
    lm = random_lm(smoke)
    weights, total = ModelShapes.of(lm).weight_bytes, memory_bytes(lm.device)
    needed = 2 * weights + REFERENCE_GIB * GIB * (not smoke)
    if total < needed:
        return {}, (
            "not run: the reference procedure keeps a gradient of every weight and needs "
            f"{needed / GIB:.0f} GiB, of {total / GIB:.0f}"
        )
    inputs = step_inputs(lm, case, case.reference_rows)
    ours_step(inputs)()  # as in a whole step
    seconds, _ = timed(lm.device, ours_step(inputs))
    few = GpuCase(new_tokens=8, num_rows=1, generated={})
    reference_step(step_inputs(lm, few, 1 + smoke))()  # what it compiles and loads, it does here
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
