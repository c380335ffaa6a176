"""Searches by the reasoning's gradient: the same each time, also from a state that was written."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from greater_fast import Config, optimize
from greater_fast.engine import Engine
from greater_fast.examples.layout import Layouts
from greater_fast.model.lm import LM
from greater_fast.rollouts.choose import make_engine
from greater_fast.search import optimizer
from greater_fast.search.nouns import Step
from greater_fast.search.state import LoopState
from tests.cases import layouts_of, plain_logits
from tests.e2e.test_optimize import step_log

SETTINGS = {"max_new_tokens": 6, "num_proposal_examples": 2, "num_draws": 3, "accept": "best"}
NUM_ANSWER = 5
pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")


@pytest.fixture(scope="module")
def layouts(lm: LM) -> Layouts:
    """Rows on which the model is right with the initial prompt, by chance with another."""
    found, config = layouts_of(lm, 4), Config(**SETTINGS)
    state = optimizer.start(make_engine(lm, config)[0], found, config)
    rows = []
    for number, (row, rollout) in enumerate(zip(found.rows, state.incumbent.rollouts, strict=True)):
        ids = [*found.context_ids(number, found.prompt_ids), *rollout.reasoning_ids]
        ids += found.extractor_ids
        for _ in range(NUM_ANSWER):
            ids.append(int(plain_logits(lm, ids)[-1].argmax()))
        rows.append(dataclasses.replace(row, answer_ids=tuple(ids[-NUM_ANSWER:])))
    return dataclasses.replace(found, rows=tuple(rows))


@pytest.mark.parametrize(("gradient", "reasonings"), [("both", "stored"), ("reasoning", "sampled")])
def test_a_search_goes_on_from_its_state(
    lm: LM, layouts: Layouts, gradient: str, reasonings: str
) -> None:
    config = Config(**SETTINGS, gradient=gradient, reasonings=reasonings)

    def searched(engine: Engine, state: LoopState, last: int) -> list[Any]:
        steps: list[Any] = []

        def log(step: Step) -> bool:
            steps.append((step.trials, step.prompt_ids, step.objective))
            return step.step == last

        optimizer.run(engine, layouts, config, state, log)
        return steps

    engine, other = (make_engine(lm, config)[0] for _ in range(2))
    state = optimizer.start(engine, layouts, config)
    first = json.dumps(state.to_dict())
    begun = searched(engine, state, 1)
    read = LoopState.from_dict(json.loads(json.dumps(state.to_dict())))
    if reasonings == "stored":
        assert any(len({r.is_right for r in row}) == 2 for row in state.reasonings.rows)
    ended = searched(engine, state, 3)
    assert searched(other, read, 3) == ended
    assert json.dumps(read.to_dict()) == json.dumps(state.to_dict())
    assert searched(other, LoopState.from_dict(json.loads(first)), 3) == begun + ended


def test_a_run_by_both_gradients(
    lm: LM, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    config = {**settings, "gradient": "both", "reasonings": "sampled", "num_reasonings": 2}
    result = optimize(lm, rows, config=config, run_dir=tmp_path / "run")
    assert len(step_log(tmp_path / "run")) == settings["steps"]
    written = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    assert {name: written[name] for name in ("gradient", "reasonings", "num_reasonings")} == {
        "gradient": "both",
        "reasonings": "sampled",
        "num_reasonings": 2,
    }
    draws = 2 * settings["num_train"]  # of one token at least, in each step
    for step in result.steps:
        assert step.num_generated_tokens >= draws + len(step.trials)
