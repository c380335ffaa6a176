"""A round of a GreaterPrompt program in a fresh process, by its own procedure or by our front end.

python -m benchmarks.harness.greaterprompt SIDE --json '{"num_rows": ..., ...}'  fields of StepCase
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

from benchmarks.baselines.greaterprompt import GreaterPromptProcedure, RoundSettings
from benchmarks.baselines.reference_procedure import ReferenceRow
from benchmarks.harness.machine import PeakMemory, device_name, synchronize
from benchmarks.harness.measure import (
    StepCase,
    StepInputs,
    arguments_of,
    in_fresh_process,
    ours_step,
)
from greater_fast.examples.extractor import make_extractor
from greater_fast.examples.layout import build_layouts
from greater_fast.examples.tasks import generate
from greater_fast.front_ends.greaterprompt.settings import config_of
from greater_fast.model.lm import load_lm
from greater_fast.search.nouns import Position

EXTRACTOR = "\nNext, only give the exact answer:"
INTERSECT_Q, CANDIDATES_TOPK = 5, 10  # of GreaterPrompt's README


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFigures:
    """What a round cost, and what both sides compute: each row's reasoning, the mean loss after it.

    Generated tokens count up to and with the end id; peak memory is above that after loading.
    """

    reasonings: list[list[int]]
    loss: float
    seconds: float
    generated_tokens: int
    forward_tokens: int
    peak_memory_bytes: int
    peak_memory_counter: str
    device: str


# Reasonings, loss, generated tokens, forward tokens.
Outcome = tuple[list[list[int]], float, int, int]


def lay_out_round(case: StepCase) -> StepInputs:
    """The model, touched once so that all of it is resident, and rows as our front end has them.

    Answers are of one token: behind that, GreaterPrompt's logits follow the model's own tokens, and
    ours the gold ones.
    """
    lm = load_lm(case.model)
    generation = {"max_new_tokens": case.max_new_tokens}
    given = {"intersect_q": INTERSECT_Q, "candidates_topk": CANDIDATES_TOPK}
    config = config_of({**given, "generate_config": generation}, {"seed": case.seed})
    examples = generate(case.task, case.num_rows, case.seed)
    layouts = build_layouts(lm, examples, case.prompt, make_extractor(EXTRACTOR), config)
    assert layouts.longest_answer == 1
    with torch.no_grad():
        lm.model(torch.tensor([layouts.context_ids(0, layouts.prompt_ids)], device=lm.device))
    return StepInputs(lm, layouts, Position(0, case.position, layouts.prompt_ids), config)


def procedure_on(inputs: StepInputs) -> GreaterPromptProcedure:
    """GreaterPrompt's procedure on the same rows and with the same settings."""
    layouts = inputs.layouts
    settings = RoundSettings(
        end_ids=tuple(sorted(inputs.lm.end_ids)),
        max_new_tokens=inputs.config.max_new_tokens,
        intersect_q=inputs.config.num_proposal_examples,
        candidates_topk=inputs.config.top_k,
    )
    rows = [
        ReferenceRow(row.head_ids, row.tail_ids, layouts.extractor_ids, row.answer_ids)
        for row in layouts.rows
    ]
    return GreaterPromptProcedure(inputs.lm.model, rows, settings)


def theirs(inputs: StepInputs) -> Callable[[], Outcome]:
    """A round of GreaterPrompt's, ready to run."""
    procedure, position = procedure_on(inputs), inputs.position

    def run() -> Outcome:
        found = procedure.round(list(position.prompt_ids), position.index)
        loss = sum(found.losses) / len(found.losses)
        return found.reasonings, loss, procedure.generated_tokens, procedure.forward_tokens

    return run


def ours(inputs: StepInputs) -> Callable[[], Outcome]:
    """A step of the search, ready to run: as in every round but the first, the prompt is known."""
    step = ours_step(inputs)

    def run() -> Outcome:
        found = step()
        return found.reasonings, found.loss, found.generated_tokens, found.forward_tokens

    return run


SIDES = {"theirs": theirs, "ours": ours}


def loss_after(case: StepCase, reasonings: Sequence[Sequence[int]]) -> float:
    """The mean loss behind given reasonings, by GreaterPrompt's procedure."""
    inputs = lay_out_round(case)
    procedure, prompt_ids = procedure_on(inputs), list(inputs.position.prompt_ids)
    losses = [
        procedure.answer_loss(row, prompt_ids, list(reasoning)).item()
        for row, reasoning in zip(procedure.rows, reasonings, strict=True)
    ]
    return sum(losses) / len(losses)


def run_here(side: str, case: StepCase) -> RoundFigures:
    """Measure a side in this process, which must be fresh for its memory to mean anything."""
    torch.set_num_threads(case.num_threads)
    inputs = lay_out_round(case)
    memory = PeakMemory(inputs.lm.device)
    run = SIDES[side](inputs)
    memory.restart()
    start = time.perf_counter()
    reasonings, loss, generated_tokens, forward_tokens = run()
    synchronize(inputs.lm.device)
    return RoundFigures(
        reasonings=reasonings,
        loss=loss,
        seconds=time.perf_counter() - start,
        generated_tokens=generated_tokens,
        forward_tokens=forward_tokens,
        peak_memory_bytes=memory.peak_bytes(),
        peak_memory_counter=memory.counter,
        device=device_name(inputs.lm.device),
    )


def measure_round(side: str, case: StepCase) -> RoundFigures:
    """Measure a side in a fresh process."""
    return RoundFigures(**in_fresh_process("benchmarks.harness.greaterprompt", side, case))


if __name__ == "__main__":
    asked, fields_asked = arguments_of("benchmarks.harness.greaterprompt", SIDES)
    print(json.dumps(asdict(run_here(asked, StepCase(**fields_asked)))))
