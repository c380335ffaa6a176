"""A run that cannot go on, or is told to end, keeps what it has: NaN, infinity and Ctrl-C."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from greater_fast import optimize
from greater_fast.model.lm import LM
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.runs.directory import read_run
from greater_fast.runs.evaluation import evaluate_prompt
from greater_fast.runs.result import Result
from greater_fast.search.nouns import Step
from greater_fast.search.state import LoopState
from tests.tiny import PROMPT

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")
Search = Callable[..., Result]


@pytest.fixture
def search(rows: list[Any], settings: dict[str, Any], tmp_path: Path) -> Search:
    def call(model: Any, on_step: Any = None, **given: Any) -> Result:
        return optimize(
            model,
            rows[:8],
            prompt=PROMPT,
            test=rows[8:],
            config={**settings, "steps": 4, **given},
            run_dir=tmp_path / "run",
            on_step=on_step,
        )

    return call


def poison(lm: LM, text: str, value: float) -> None:
    """Put a value into the embedding of the last token of a text."""
    lm.model.model.embed_tokens.weight[lm.vocabulary.ids(text)[-1]] = value


def saved_state(run: Path) -> LoopState:
    return LoopState.from_dict(json.loads((run / "state.json").read_text()))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_of_the_initial_prompt(
    search: Search, own_lm: LM, tmp_path: Path, value: float
) -> None:
    poison(own_lm, " think", value)
    with pytest.raises(FloatingPointError, match=r"logits of example \d are not finite"):
        search(own_lm)
    assert read_run(tmp_path / "run")["run"]["prompt"] == PROMPT


def test_infinite_loss_of_some_examples(search: Search, own_lm: LM, tmp_path: Path) -> None:
    plain = own_lm.model.lm_head.forward
    (gold,) = own_lm.vocabulary.ids(" True")

    def never(hidden: torch.Tensor) -> torch.Tensor:
        return plain(hidden).index_fill(-1, torch.tensor(gold), -torch.inf)

    own_lm.model.lm_head.forward = never
    with pytest.raises(FloatingPointError, match="loss of example") as caught:
        search(own_lm, extractor="The answer is")
    examples = read_run(tmp_path / "run")["examples"]
    broken = [i for i, e in enumerate(examples) if e["split"] == "train" and e["answer"] == "True"]
    assert any(f"example {number} " in str(caught.value) for number in broken)


def test_nan_in_a_later_step_leaves_the_state(search: Search, own_lm: LM, tmp_path: Path) -> None:
    def break_model(step: Step) -> None:
        if step.step == 1:
            poison(own_lm, " True", float("nan"))

    message = r"(loss|gradient|logits) of example \d"
    with pytest.raises(FloatingPointError, match=message) as caught:
        search(own_lm, on_step=break_model)
    run = read_run(tmp_path / "run")
    assert run["result"]["stopped"] == f"failed: {caught.value}"
    assert run["result"]["prompt"] == min(run["steps"], key=lambda s: s["objective"])["prompt"]
    assert [step["step"] for step in run["steps"]] == [0, 1]
    state = saved_state(tmp_path / "run")
    assert state.step == 2
    assert list(state.incumbent.prompt_ids) == run["steps"][-1]["prompt_ids"]
    assert len(state.incumbent.rollouts) == 4


def test_gradient_that_is_not_finite(
    search: Search, lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = torch.autograd.grad

    def overflow(*args: Any, **kwargs: Any) -> Any:
        (gradient,) = plain(*args, **kwargs)
        return (gradient.index_fill(0, torch.tensor(0), torch.inf),)

    monkeypatch.setattr(torch.autograd, "grad", overflow)
    with pytest.raises(FloatingPointError) as caught:
        search(lm)
    assert "the gradient of example" in str(caught.value)
    assert "at prompt position 0 is not finite: try dtype float32" in str(caught.value)
    assert saved_state(tmp_path / "run").step == 0


def assert_saved(result: Result, run: Path, num_steps: int) -> None:
    """The run ended by Ctrl-C with its best prompt so far returned and written."""
    assert result.stopped == "interrupted"
    assert len(result.steps) == num_steps
    held = read_run(run)
    assert [step["step"] for step in held["steps"]] == list(range(num_steps))
    assert held["result"] == json.loads(json.dumps(result.to_dict()))
    assert held["result"]["prompt"] == result.prompt
    assert saved_state(run).step == num_steps


def test_interruption_in_a_callback(search: Search, lm: LM, tmp_path: Path) -> None:
    def interrupt(step: Step) -> None:
        if step.step == 1:
            raise KeyboardInterrupt

    result = search(lm, on_step=interrupt)
    assert_saved(result, tmp_path / "run", 2)
    assert result.prompt == min(result.steps, key=lambda step: step.objective).prompt
    assert result.best.dev is None
    assert result.baseline.prompt == PROMPT
    assert result.dev_comparison is None


def test_interruption_in_generation(
    search: Search, lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = RolloutEngine.run
    generated: list[int] = []

    def interrupt(self: RolloutEngine, requests: Any, on_finished: Any = None) -> Any:
        generated.append(len(requests))
        if len(finished) == 1 and len(generated) > in_first_step[0]:
            raise KeyboardInterrupt
        return plain(self, requests, on_finished)

    finished: list[Step] = []
    in_first_step: list[int] = []

    def count(step: Step) -> None:
        finished.append(step)
        in_first_step.append(len(generated))

    monkeypatch.setattr(RolloutEngine, "run", interrupt)
    result = search(lm, on_step=count)
    assert_saved(result, tmp_path / "run", 1)
    scored = saved_state(tmp_path / "run").scored
    assert len(scored) == 1 + sum(trial.objective is not None for trial in finished[0].trials)
    assert result.best.objective == min(finalist.objective for finalist in result.finalists)


def test_interruption_before_the_first_score(
    search: Search, lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: RolloutEngine, requests: Any, on_finished: Any = None) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(RolloutEngine, "run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        search(lm)
    run = read_run(tmp_path / "run")
    assert run["steps"] == []
    assert run["result"] is None


@pytest.mark.parametrize(("number", "split"), [(1, "dev"), (3, "test")])
def test_interruption_in_the_finals(
    search: Search,
    lm: LM,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    split: str,
) -> None:
    asked: list[int] = []

    def interrupt(*args: Any) -> Any:
        if len(asked) == number:
            raise KeyboardInterrupt
        asked.append(1)
        return evaluate_prompt(*args)

    monkeypatch.setattr("greater_fast.runs.models.mean_evaluation.evaluate_prompt", interrupt)
    result = search(lm, num_finalists=2)
    assert_saved(result, tmp_path / "run", 4)
    measured = [finalist.dev is not None for finalist in result.finalists]
    assert measured == ([True, False, False] if split == "dev" else [True, True, True])
    assert result.best.dev is not None
    assert result.test_comparison is None
    assert result.baseline.test is None
    lines = (tmp_path / "run" / "rows.jsonl").read_text().splitlines()
    assert len(lines) == 4 * number
