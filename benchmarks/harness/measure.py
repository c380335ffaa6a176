"""Measurements in fresh processes: seconds, tokens and peak memory of one step of either side.

From the repository's root, on 8 rows of a data file (any field of StepCase can be given):
    python -m benchmarks.harness.measure reference --json '{"task": "rows.json", "num_rows": 8}'
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import Field, asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from benchmarks.baselines.reference_procedure import (
    ProposalRules,
    ReferenceProcedure,
    ReferenceRow,
    ReferenceSettings,
)
from benchmarks.harness.machine import PeakMemory, device_name, versions
from greater_fast.config import Config
from greater_fast.examples.data import load_examples
from greater_fast.examples.extractor import derive_extractor
from greater_fast.examples.layout import Layouts, build_layouts
from greater_fast.examples.tasks import TASKS, generate
from greater_fast.gradients.gradient_pass import check_gradient
from greater_fast.model.lm import LM, load_lm
from greater_fast.rollouts.choose import make_engine
from greater_fast.search import optimizer
from greater_fast.search.nouns import Position, Step
from greater_fast.search.optimizer import start
from greater_fast.search.propose import draw_rows

PROMPT = (
    "Use proper logical reasoning and think step by step. Finally give the actual correct answer."
)
ROOT = Path(__file__).resolve().parents[2]


class Case(Protocol):
    """A dataclass that says what a fresh process measures."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def num_threads(self) -> int:
        """Threads it is measured with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCase:
    """What a step is measured on; `task` names a generated task or a data file.

    `end_id` replaces the model's end ids: one that it never says makes all reasonings equally long.
    """

    model: str = "smollm2-135m"
    task: str = "boolean_expressions"
    num_rows: int = 16
    max_new_tokens: int = 96
    prompt: str = PROMPT
    position: int = 5
    seed: int = 0
    num_threads: int = 2
    end_id: int | None = None

    def described(self, smoke: bool) -> dict[str, Any]:
        """The case for the record, where a folder says nothing."""
        return asdict(self) | ({"model": "tiny"} if smoke else {})


@dataclass(frozen=True, slots=True)
class StepInputs:
    """A case, loaded."""

    lm: LM
    layouts: Layouts
    position: Position
    config: Config


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """What one step decided, and the work it did.

    Generated tokens count up to and with the end id, forward tokens count padding. The reasonings,
    `error` and `loss` (the two objectives) are the incumbent's.
    """

    stage_seconds: dict[str, float]
    generated_tokens: int
    forward_tokens: int
    stage_forward_tokens: dict[str, int]
    candidates: list[int]
    shortlist: list[int]
    reasonings: list[list[int]]
    error: float
    loss: float
    objectives: dict[str, float]  # error objective by shortlisted id


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One step in a fresh process; peak memory is above that after loading."""

    name: str
    outcome: StepOutcome
    seconds: float
    cpu_user_seconds: float
    peak_memory_bytes: int
    peak_memory_counter: str
    num_threads: int
    device: str
    versions: dict[str, str]


def load_inputs(case: StepCase) -> StepInputs:
    """The model, touched once so that all of it is resident, and the rows laid out for it."""
    return lay_out(load_lm(case.model), case)


def lay_out(lm: LM, case: StepCase) -> StepInputs:
    """A loaded model, touched once so that all of it is resident, and the rows laid out for it."""
    if case.end_id is not None:
        lm = replace(lm, end_ids=frozenset({case.end_id}))
    if case.task in TASKS:
        examples = generate(case.task, case.num_rows, case.seed)
    else:
        examples = load_examples(case.task)[: case.num_rows]
    config = Config(max_new_tokens=case.max_new_tokens, seed=case.seed)
    extractor = derive_extractor([example.answer for example in examples])
    layouts = build_layouts(lm, examples, case.prompt, extractor, config)
    with torch.no_grad():
        lm.model(torch.tensor([layouts.context_ids(0, layouts.prompt_ids)], device=lm.device))
    return StepInputs(lm, layouts, Position(0, case.position, layouts.prompt_ids), config)


def reference_procedure(inputs: StepInputs) -> ReferenceProcedure:
    """The baseline on the same rows and with the same settings."""
    layouts, config = inputs.layouts, inputs.config
    settings = ReferenceSettings(
        end_ids=tuple(sorted(inputs.lm.end_ids)),
        pad_id=min(inputs.lm.end_ids),
        max_new_tokens=config.max_new_tokens,
        top_k=config.top_k,
        shortlist_size=config.shortlist_size,
        temperature=config.temperature,
        fluency_weight=config.fluency_weight,
        error_fluency_weight=config.error_fluency_weight,
    )
    rows = [
        ReferenceRow(row.head_ids, row.tail_ids, layouts.extractor_ids, row.answer_ids)
        for row in layouts.rows
    ]
    return ReferenceProcedure(inputs.lm.model, rows, settings)


def reference_step(inputs: StepInputs) -> Callable[[], StepOutcome]:
    """One step of the baseline, ready to run: it draws the rows that the package draws."""
    procedure, layouts, position = reference_procedure(inputs), inputs.layouts, inputs.position

    def draw(number: int) -> list[list[int]]:
        return draw_rows(len(layouts), position.step, number, inputs.config)

    def keep(prompt_ids: list[int]) -> bool:
        return layouts.round_trips([prompt_ids])[0]

    def run() -> StepOutcome:
        allowed = position.without_stutter(layouts.candidate_mask, layouts.words)
        rules = ProposalRules(allowed, draw, keep)
        step = procedure.step(list(position.prompt_ids), position.index, rules)
        return StepOutcome(
            stage_seconds=step.seconds,
            generated_tokens=step.generated_tokens,
            forward_tokens=sum(step.forward_tokens.values()),
            stage_forward_tokens=step.forward_tokens,
            candidates=step.candidates,
            shortlist=step.shortlist,
            reasonings=step.reasonings,
            error=step.incumbent.error,
            loss=step.incumbent.loss,
            objectives={str(v): objective.error for v, objective in step.objectives.items()},
        )

    return run


def ours_step(inputs: StepInputs) -> Callable[[], StepOutcome]:
    """One step of the package, ready to run; it knows the incumbent from the step before."""
    lm, layouts, config = inputs.lm, inputs.layouts, replace(inputs.config, steps=1)
    num_rollouts = config.shortlist_size * len(layouts)
    engine, _ = make_engine(lm, config, layouts.longest_sequence(config), num_rollouts)
    check_gradient(engine, config.kernels)  # the trials that a run makes once, before any step
    state = start(engine, layouts, config)
    state.index = inputs.position.index
    incumbent, tokens_before = state.incumbent, engine.num_forward_tokens

    def run() -> StepOutcome:
        steps: list[Step] = []
        optimizer.run(engine, layouts, config, state, steps.append)
        (step,) = steps
        return StepOutcome(
            stage_seconds=step.seconds,
            generated_tokens=step.num_generated_tokens,
            forward_tokens=engine.num_forward_tokens - tokens_before,
            stage_forward_tokens={},
            candidates=list(step.candidate_ids),
            shortlist=[trial.token_id for trial in step.trials],
            reasonings=[list(rollout.reasoning_ids) for rollout in incumbent.rollouts],
            error=incumbent.objective.value(replace(config, objective="error")),
            loss=incumbent.objective.value(replace(config, objective="loss")),
            objectives={
                str(t.token_id): t.objective for t in step.trials if t.objective is not None
            },
        )

    return run


# What a side may keep from the step before, it makes while it is prepared, before the clock starts.
STEPS: dict[str, Callable[[StepInputs], Callable[[], StepOutcome]]] = {
    "reference": reference_step,
    "ours": ours_step,
}


def run_here(name: str, case: StepCase) -> Measurement:
    """Measure one step in this process, which must be fresh for its memory to mean anything.

    Raises:
        ValueError: no measurement has that name.
    """
    if name not in STEPS:
        raise ValueError(f"measurement: got {name!r}, expected one of {', '.join(STEPS)}")
    torch.set_num_threads(case.num_threads)
    inputs = load_inputs(case)
    memory = PeakMemory(inputs.lm.device)
    step = STEPS[name](inputs)
    memory.restart()
    start, user_start = time.perf_counter(), os.times().user
    outcome = step()
    return Measurement(
        name=name,
        outcome=outcome,
        seconds=time.perf_counter() - start,
        cpu_user_seconds=os.times().user - user_start,
        peak_memory_bytes=memory.peak_bytes(),
        peak_memory_counter=memory.counter,
        num_threads=torch.get_num_threads(),
        device=device_name(inputs.lm.device),
        versions=versions(),
    )


def in_fresh_process(module: str, name: str, case: Case) -> dict[str, Any]:
    """What `python -m module name` prints for a case, with its number of threads.

    Raises:
        subprocess.CalledProcessError: the measurement failed; its standard error was passed on.
    """
    command = [sys.executable, "-m", module, name, "--json", json.dumps(asdict(case))]
    environment = os.environ | {"OMP_NUM_THREADS": str(case.num_threads)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    fields: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return fields


def measure(name: str, case: StepCase) -> Measurement:
    """Measure one step in a fresh process."""
    fields = in_fresh_process("benchmarks.harness.measure", name, case)
    return Measurement(**fields | {"outcome": StepOutcome(**fields["outcome"])})


def arguments_of(module: str, names: Iterable[str]) -> tuple[str, dict[str, Any]]:
    """The name and the fields of the case that a measuring process was asked for."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("name", choices=sorted(names), help="which side to measure")
    parser.add_argument("--json", default="{}", help="fields of the case that differ from defaults")
    arguments = parser.parse_args()
    return arguments.name, json.loads(arguments.json)


if __name__ == "__main__":
    asked, fields_asked = arguments_of("benchmarks.harness.measure", STEPS)
    print(json.dumps(asdict(run_here(asked, StepCase(**fields_asked)))))
