"""The gradient stage in a fresh process, at some places of the prompt, after the same reasonings.

python -m benchmarks.harness.gradients SIDE --json '{"task": ..., ...}'    fields of GradientCase
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import torch

from benchmarks.harness.machine import PeakMemory, device_name, synchronize
from benchmarks.harness.measure import (
    StepCase,
    StepInputs,
    arguments_of,
    in_fresh_process,
    load_inputs,
    reference_procedure,
)
from greater_fast.engine import Engine, Rollout, RolloutRequest
from greater_fast.gradients.gradient_pass import check_gradient
from greater_fast.rollouts.choose import make_engine
from greater_fast.search.gradient import prompt_gradient, reasoning_gradients
from greater_fast.search.nouns import Position
from greater_fast.search.reasonings import Reasoning

SHORTLIST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientCase(StepCase):
    """A step's case with the reasoning of each row; negative places count from the prompt's end."""

    reasonings: list[list[int]] = field(default_factory=list)
    places: list[int] = field(default_factory=lambda: [0])


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientFigures:
    """What a side found and cost, place by place; peak memory is of them all.

    `scores` are first-order changes of the loss [V], `shortlists` the lowest of allowed tokens.
    """

    places: list[int]
    scores: list[list[float]]
    shortlists: list[list[int]]
    seconds_by_place: list[float]
    peak_memory_bytes: int
    device: str

    @property
    def seconds(self) -> float:
        """The mean over the places."""
        return sum(self.seconds_by_place) / len(self.seconds_by_place)


# One-hot scores [V] of the token at a place of the prompt.
ScoresAt = Callable[[int], torch.Tensor]


def ours(inputs: StepInputs, reasonings: list[list[int]]) -> ScoresAt:
    """The package: as in every step, the engine has run the incumbent's prompts before."""
    engine = warm_engine(inputs)
    rollouts = [Rollout(tuple(reasoning)) for reasoning in reasonings]
    return scores_by(
        inputs, lambda at: prompt_gradient(engine, inputs.layouts, rollouts, at, inputs.config)
    )


def by_reasonings(inputs: StepInputs, reasonings: list[list[int]]) -> ScoresAt:
    """The reasoning's gradient: of each row its own as right, those of rows behind it as wrong."""
    engine, layouts, config = warm_engine(inputs), inputs.layouts, inputs.config
    end_id = min(inputs.lm.end_ids)
    rows = [
        [
            Reasoning(tuple(reasonings[(row + other) % len(reasonings)]), other == 0, end_id)
            for other in range(min(config.num_reasonings, len(reasonings)))
        ]
        for row in range(len(reasonings))
    ]
    return scores_by(
        inputs, lambda at: reasoning_gradients(engine, layouts, rows, at, config).sum(0)
    )


def by_reasonings_apart(inputs: StepInputs, reasonings: list[list[int]]) -> ScoresAt:
    """The same, one sequence after another."""
    config = replace(inputs.config, gradient_batch_tokens=1)
    return by_reasonings(replace(inputs, config=config), reasonings)


def warm_engine(inputs: StepInputs) -> Engine:
    """An engine that has run the prompts of all rows, and the trials that a run makes once."""
    lm, layouts = inputs.lm, inputs.layouts
    engine, _ = make_engine(lm, inputs.config)
    check_gradient(engine, inputs.config.kernels)
    contexts = [layouts.context_ids(row, layouts.prompt_ids) for row in range(len(layouts))]
    engine.run([RolloutRequest(context, 1, lm.end_ids) for context in contexts])
    return engine


def scores_by(inputs: StepInputs, gradient_at: Callable[[Position], torch.Tensor]) -> ScoresAt:
    """Scores of all tokens by a gradient [D] at each place."""
    weight: torch.Tensor = inputs.lm.model.get_input_embeddings().weight
    return lambda place: (
        weight.float() @ gradient_at(Position(0, place, inputs.layouts.prompt_ids)).float()
    )


def reference(inputs: StepInputs, reasonings: list[list[int]]) -> ScoresAt:
    """The reference procedure: one row at a time, full sequences, all logits, all weights."""
    procedure, prompt_ids = reference_procedure(inputs), list(inputs.layouts.prompt_ids)
    return lambda place: procedure.gradient(prompt_ids, place, reasonings)


SIDES = {
    "ours": ours,
    "reasonings": by_reasonings,
    "reasonings_apart": by_reasonings_apart,
    "reference": reference,
}


def run_here(side: str, case: GradientCase) -> GradientFigures:
    """Measure a side in this process, which must be fresh for its memory to mean anything."""
    torch.set_num_threads(case.num_threads)
    inputs = load_inputs(case)
    places = [range(len(inputs.layouts.prompt_ids))[place] for place in case.places]
    memory = PeakMemory(inputs.lm.device)
    scores_at = SIDES[side](inputs, case.reasonings)
    memory.restart()
    scores_at(places[-1])  # not timed: libraries set themselves up
    seconds, scores = [], []
    for place in places:
        synchronize(inputs.lm.device)
        start = time.perf_counter()
        found = scores_at(place)
        synchronize(inputs.lm.device)
        seconds.append(time.perf_counter() - start)
        scores.append(found.cpu())
    peak = memory.peak_bytes()
    allowed = inputs.layouts.candidate_mask
    ranked = [found.masked_fill(~allowed, torch.inf).argsort() for found in scores]
    return GradientFigures(
        places=places,
        scores=[found.tolist() for found in scores],
        shortlists=[order[:SHORTLIST].tolist() for order in ranked],
        seconds_by_place=seconds,
        peak_memory_bytes=peak,
        device=device_name(inputs.lm.device),
    )


def measure_gradients(side: str, case: GradientCase) -> GradientFigures:
    """Measure a side in a fresh process."""
    return GradientFigures(**in_fresh_process("benchmarks.harness.gradients", side, case))


if __name__ == "__main__":
    asked, fields_asked = arguments_of("benchmarks.harness.gradients", SIDES)
    print(json.dumps(asdict(run_here(asked, GradientCase(**fields_asked)))))
