"""The selection workload in a fresh process: three changed prompts on all rows, answers scored.

python -m benchmarks.harness.rollouts SIDE --json '{"task": ..., ...}'    fields of StepCase
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import takewhile

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from benchmarks.harness.machine import PeakMemory, device_name
from benchmarks.harness.measure import (
    StepCase,
    StepInputs,
    arguments_of,
    in_fresh_process,
    load_inputs,
    reference_procedure,
)
from greater_fast.engine import Engine, Rollout, RolloutRequest
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.rollouts.plain import PlainRolloutEngine
from greater_fast.search.nouns import objective_of

WORDS = " careful detailed simple"  # one for each candidate, in the prompt's fourth place
PAGE_SIZE, MAX_BATCH_TOKENS = 32, 256  # of transformers' continuous batching
Prompt = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Reasonings of all candidates and rows, and each candidate's error objective."""

    reasonings: list[list[int]]
    objectives: list[float]
    work: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionFigures:
    """What a side found and what it cost; memory is above that after loading."""

    scores: Scores
    seconds: float
    generated_tokens: int
    peak_memory_bytes: int
    device: str


def candidates(inputs: StepInputs) -> list[Prompt]:
    """The incumbent's prompt with its fourth token changed."""
    prompt_ids = inputs.layouts.prompt_ids
    words = inputs.lm.vocabulary.ids(WORDS)[:3]
    return [(*prompt_ids[:3], word, *prompt_ids[4:]) for word in words]


def _requests(
    inputs: StepInputs, prompts: list[Prompt], drafts: list[Prompt] | None = None
) -> list[RolloutRequest]:
    layouts = inputs.layouts
    return [
        RolloutRequest(
            prompt_ids=layouts.context_ids(row, prompt_ids),
            max_new_tokens=inputs.config.max_new_tokens,
            end_ids=inputs.lm.end_ids,
            prompt_span=layouts.prompt_span(row, prompt_ids),
            target_ids=layouts.target_ids(row),
            num_scored=len(layouts.rows[row].answer_ids),
            draft_ids=drafts[row] if drafts else (),
        )
        for prompt_ids in prompts
        for row in range(len(layouts))
    ]


def _by_engine(inputs: StepInputs, engine: Engine, requests: list[RolloutRequest]) -> Scores:
    num_rows = len(inputs.layouts)
    forward_before = engine.num_forward_tokens
    rollouts: list[Rollout] = [r for r in engine.run(requests) if r]
    each = [rollouts[i : i + num_rows] for i in range(0, len(rollouts), num_rows)]
    return Scores(
        reasonings=[list(r.reasoning_ids) for r in rollouts],
        objectives=[objective_of(own, num_rows).value(inputs.config) for own in each],
        work={"forward_tokens": engine.num_forward_tokens - forward_before},
    )


def paged(inputs: StepInputs, draft_tokens: int = 0) -> Callable[[], Scores]:
    """Ours: as in every step but the first, the heads are stored and the incumbent is known."""
    engine = RolloutEngine(
        inputs.lm, temperature=inputs.config.temperature, draft_tokens=draft_tokens
    )
    incumbent = engine.run(_requests(inputs, [inputs.layouts.prompt_ids]))
    known = [r.reasoning_ids for r in incumbent if r] if draft_tokens else None
    requests = _requests(inputs, candidates(inputs), known)
    before = engine.statistics

    def run() -> Scores:
        scores = _by_engine(inputs, engine, requests)
        scores.work.update({k: v - before[k] for k, v in engine.statistics.items()})
        return scores

    return run


def generate(inputs: StepInputs) -> Callable[[], Scores]:
    """One left-padded batch of transformers' generate, and one more forward pass to score."""
    requests = _requests(inputs, candidates(inputs))
    engine = PlainRolloutEngine(inputs.lm, len(requests), inputs.config.temperature)
    return lambda: _by_engine(inputs, engine, requests)


def reference(inputs: StepInputs) -> Callable[[], Scores]:
    """The reference procedure: batches of 9, and all sequences run again to score."""
    procedure = reference_procedure(inputs)

    def run() -> Scores:
        reasonings, objectives = [], []
        for prompt_ids in candidates(inputs):
            own = procedure.generate(list(prompt_ids))
            reasonings += own
            objectives.append(procedure.evaluate(list(prompt_ids), own).error)
        return Scores(reasonings=reasonings, objectives=objectives)

    return run


def generate_batch(inputs: StepInputs) -> Callable[[], Scores]:
    """Transformers' continuous batching; scored as the reference procedure does.

    Its cache gets the blocks that all requests need together and no more: left to itself it takes
    most of the memory, and on a CPU every step attends over all of that.
    """
    procedure, requests = reference_procedure(inputs), _requests(inputs, candidates(inputs))
    ends, limit = sorted(inputs.lm.end_ids), inputs.config.max_new_tokens
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=limit, eos_token_id=ends, pad_token_id=ends[0]
    )
    num_blocks = sum(-(-(len(r.prompt_ids) + limit) // PAGE_SIZE) for r in requests)
    batching = ContinuousBatchingConfig(
        page_size=PAGE_SIZE, num_blocks=num_blocks, max_batch_tokens=MAX_BATCH_TOKENS
    )

    def run() -> Scores:
        outputs = inputs.lm.model.generate_batch(
            inputs=[list(r.prompt_ids) for r in requests],
            generation_config=settings,
            continuous_batching_config=batching,
        )
        by_request = sorted(outputs.values(), key=lambda o: int(o.request_id.rsplit("_", 1)[1]))
        reasonings = [_before_end(o.generated_tokens, inputs.lm.end_ids) for o in by_request]
        num_rows = len(inputs.layouts)
        objectives = [
            procedure.evaluate(list(ids), reasonings[i * num_rows : (i + 1) * num_rows]).error
            for i, ids in enumerate(candidates(inputs))
        ]
        return Scores(reasonings=reasonings, objectives=objectives)

    return run


def _before_end(ids: Sequence[int], end_ids: frozenset[int]) -> list[int]:
    return list(takewhile(lambda i: i not in end_ids, ids))


SIDES: dict[str, Callable[[StepInputs], Callable[[], Scores]]] = {
    "paged": paged,
    "paged+drafts": lambda inputs: paged(inputs, draft_tokens=160),
    "generate": generate,
    "generate_batch": generate_batch,
    "reference": reference,
}


def run_here(side: str, case: StepCase) -> SelectionFigures:
    """Measure a side in this process, which must be fresh for its memory to mean anything."""
    torch.set_num_threads(case.num_threads)
    inputs = load_inputs(case)
    memory = PeakMemory(inputs.lm.device)
    prepared = SIDES[side](inputs)
    memory.restart()
    start = time.perf_counter()
    scores = prepared()
    seconds = time.perf_counter() - start
    ended = [len(ids) < case.max_new_tokens for ids in scores.reasonings]
    return SelectionFigures(
        scores=scores,
        seconds=seconds,
        generated_tokens=sum(map(len, scores.reasonings)) + sum(ended),
        peak_memory_bytes=memory.peak_bytes(),
        device=device_name(inputs.lm.device),
    )


def measure_selection(side: str, case: StepCase) -> SelectionFigures:
    """Measure a side in a fresh process."""
    fields = in_fresh_process("benchmarks.harness.rollouts", side, case)
    return SelectionFigures(**fields | {"scores": Scores(**fields["scores"])})


if __name__ == "__main__":
    asked, fields_asked = arguments_of("benchmarks.harness.rollouts", SIDES)
    print(json.dumps(asdict(run_here(asked, StepCase(**fields_asked)))))
