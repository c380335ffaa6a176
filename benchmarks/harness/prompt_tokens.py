"""Prompt tokens that a whole step computes, with shared prefixes and without, in a fresh process.

python -m benchmarks.harness.prompt_tokens shared --json '{"task": ..., ...}'    fields of StepCase
"""

import json
import time
from dataclasses import asdict, dataclass, replace

import torch

from benchmarks.harness.machine import PeakMemory, device_name
from benchmarks.harness.measure import StepCase, arguments_of, in_fresh_process, load_inputs
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.search import optimizer

SIDES = ("shared", "unshared")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTokens:
    """Tokens of all prompts of a step, and those of them that went through the model."""

    prompt_tokens: int
    computed_tokens: int
    winner_ids: list[int]
    seconds: float
    peak_memory_bytes: int
    device: str


def run_here(side: str, case: StepCase) -> PromptTokens:
    """Count in this process; the incumbent is scored before, as by the step before."""
    torch.set_num_threads(case.num_threads)
    inputs = load_inputs(case)
    layouts, config = inputs.layouts, replace(inputs.config, steps=1)
    memory = PeakMemory(inputs.lm.device)
    engine = RolloutEngine(
        inputs.lm,
        temperature=config.temperature,
        share_prefixes=side == "shared",
    )
    state = optimizer.start(engine, layouts, config)
    state.index = inputs.position.index
    before = engine.statistics
    memory.restart()
    start = time.perf_counter()
    optimizer.run(engine, layouts, config, state, lambda _: None)
    seconds = time.perf_counter() - start
    counts = {name: count - before[name] for name, count in engine.statistics.items()}
    return PromptTokens(
        prompt_tokens=counts["prompt_tokens"],
        computed_tokens=counts["prompt_tokens"] - counts["shared_tokens"],
        winner_ids=list(state.incumbent.prompt_ids),
        seconds=seconds,
        peak_memory_bytes=memory.peak_bytes(),
        device=device_name(inputs.lm.device),
    )


def count_prompt_tokens(side: str, case: StepCase) -> PromptTokens:
    """Count in a fresh process."""
    return PromptTokens(**in_fresh_process("benchmarks.harness.prompt_tokens", side, case))


if __name__ == "__main__":
    asked, fields_asked = arguments_of("benchmarks.harness.prompt_tokens", SIDES)
    print(json.dumps(asdict(run_here(asked, StepCase(**fields_asked)))))
