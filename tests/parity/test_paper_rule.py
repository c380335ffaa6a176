"""`Config.paper` searches as the released rule was searched with before it had that name."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from greater_fast.config import Config
from tests.parity.paper_rule import RUNS, SHORT, answering_lm, outcomes

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")
STORED = Path(__file__).with_name("paper_rule.jsonl").read_text(encoding="utf-8").splitlines()


def approximately(step: dict[str, Any]) -> dict[str, Any]:
    """Sums of float32 differ in their last digits from processor to processor."""

    def close(value: Any, relative: float) -> Any:
        return None if value is None else pytest.approx(value, rel=relative, abs=1e-6)

    trials = [
        trial | {"score": close(trial["score"], 1e-4), "objective": close(trial["objective"], 1e-6)}
        for trial in step["trials"]
    ]
    return step | {"objective": close(step["objective"], 1e-6), "trials": trials}


def fields_of(step: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """A step less the fields that it had not got then."""
    trials = [
        {name: trial[name] for name in old}
        for trial, old in zip(step["trials"], expected["trials"], strict=True)
    ]
    return {name: step[name] for name in expected} | {"trials": trials}


@pytest.mark.parametrize("objective", RUNS)
def test_the_papers_rule_is_what_it_was_step_for_step(objective: str) -> None:
    lines = [json.loads(line) for line in STORED]
    stored = [line["step"] for line in lines if line["objective_of"] == objective]
    prompt, num_steps = RUNS[objective]
    assert len(stored) == num_steps
    found = outcomes(answering_lm(), prompt, Config.paper(objective, steps=num_steps, **SHORT))
    for step, expected in zip(found, stored, strict=True):
        assert fields_of(step, expected) == approximately(expected)


@pytest.mark.parametrize("objective", RUNS)
def test_the_defaults_are_another_rule(objective: str) -> None:
    """They come to other steps: a search that ignored the paper's settings would be seen."""
    stored = [json.loads(line) for line in STORED]
    expected = [line["step"] for line in stored if line["objective_of"] == objective]
    prompt, num_steps = RUNS[objective]
    config = Config(objective=objective, steps=num_steps, **SHORT)
    found = outcomes(answering_lm(), prompt, config)
    differ = [
        number
        for number, (step, old) in enumerate(zip(found, expected, strict=False))
        if [t["token_id"] for t in step["trials"]] != [t["token_id"] for t in old["trials"]]
        or step["prompt_ids"] != old["prompt_ids"]
    ]
    assert differ


def test_the_stored_searches_tell_rules_apart() -> None:
    """Errors differ between prompts, the objective rises, a prompt grows, and a sweep ends."""
    steps = [json.loads(line)["step"] for line in STORED]
    assert len({step["error_rate"] for step in steps}) > 5
    pairs = itertools.pairwise(steps)
    assert any(later["objective"] > step["objective"] for step, later in pairs)
    assert any(step["grows"] for step in steps)
    assert [step["index"] for step in steps[:8]] == [0, 1, 2, 3, 4, 5, 0, 1]
