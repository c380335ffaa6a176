"""The loop around its stages: what it hands on, what it records, when it ends."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from greater_fast.config import Config
from greater_fast.engine import Rollout, RolloutRequest
from greater_fast.rollouts.plain import PlainRolloutEngine
from greater_fast.search import optimizer
from greater_fast.search.gradient import StepGradient, step_gradient
from greater_fast.search.meter import Meter
from greater_fast.search.nouns import WORK_FIELDS, Candidates, Position, Step
from greater_fast.search.state import LoopState
from tests.cases import (
    FakeEngine,
    as_engine,
    layouts_of,
    made_up,
    small_config,
    table_layouts,
    tiny_lm,
)

FLAT = "training rows are"
UNFINISHED = "Use proper logical reasoning and think"


class Loop:
    """The loop with made-up stages: candidates 5, 6, 7 everywhere, 5 and 6 shortlisted."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        rollout: Callable[[tuple[int, ...], int], Rollout],
        prompt_ids: tuple[int, ...] = (1, 2, 99),
        **settings: Any,
    ) -> None:
        self.config = Config(**settings)
        self.engine = FakeEngine(rollout)
        self.layouts = table_layouts(3, prompt_ids)
        self.places: list[Position] = []
        self.gradients_at: list[Position] = []
        self.steps: list[Step] = []
        self.shortlist: dict[int, float | None] = {6: -2.0, 5: -1.0}
        self.candidates = Candidates((5, 6, 7), (-3.0, -2.0, -1.0), 10)
        self.num_contrasted: int | None = None
        monkeypatch.setattr(optimizer, "propose", self.propose)
        monkeypatch.setattr(optimizer, "step_gradient", self.gradient)
        monkeypatch.setattr(optimizer, "score", lambda *_: dict(self.shortlist))
        self.state = optimizer.start(as_engine(self.engine), self.layouts, self.config)

    def propose(self, _lm: Any, _layouts: Any, position: Position, _config: Any) -> Candidates:
        self.places.append(position)
        return self.candidates

    def gradient(
        self, _lm: Any, _layouts: Any, state: LoopState, position: Position, *_: Any
    ) -> StepGradient:
        assert state is self.state
        self.gradients_at.append(position)
        return StepGradient(torch.zeros(4), self.num_contrasted)

    def run(self, on_step: Callable[[Step], bool | str | None] | None = None) -> str:
        """Run to the end, keeping the steps."""

        def keep(step: Step) -> bool | str | None:
            self.steps.append(step)
            return on_step(step) if on_step else None

        return optimizer.run(as_engine(self.engine), self.layouts, self.config, self.state, keep)


def never_better(ids: tuple[int, ...], row: int) -> Rollout:
    """Row 0 is wrong; every prompt but the first reads worse."""
    return made_up(row == 0, nll=1.0 if ids == (1, 2, 99) else 2.0)


def sixes_are_better(ids: tuple[int, ...], row: int) -> Rollout:
    """The more sixes, the lower the objective."""
    return made_up(row == 0, nll=9.0 / (1 + ids.count(6)))


def test_positions_go_from_left_to_right_and_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch, sixes_are_better, steps=4)
    loop.run()
    assert [p.index for p in loop.places] == [0, 1, 2, 3]
    assert [p.step for p in loop.places] == [0, 1, 2, 3]
    assert loop.gradients_at[:3] == loop.places[:3]  # a placeholder only where the prompt grows
    assert [p.prompt_ids for p in loop.places] == [(1, 2, 99), (6, 2, 99), (6, 6, 99), (6, 6, 6)]


def test_a_sentence_wraps_without_growing(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch, lambda ids, row: made_up(row == 0, nll=0.5 if ids[0] == 6 else 1.0))
    assert loop.run() == "a whole sweep without a change"
    assert [p.index for p in loop.places] == [0, 1, 2, 0, 1, 2]
    assert not any(p.grows for p in loop.places)
    assert [s.changed for s in loop.steps] == [True] + [False] * 5


def test_the_run_ends_after_a_sweep_without_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch, never_better)
    assert loop.run() == "a whole sweep without a change"
    assert len(loop.steps) == 3


def test_the_run_ends_when_all_steps_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    for steps in (0, 2):
        loop = Loop(monkeypatch, sixes_are_better, steps=steps)
        assert loop.run() == "all steps done"
        assert len(loop.steps) == loop.state.step == steps


def test_a_text_from_on_step_is_why_the_run_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch, sixes_are_better, steps=4)
    assert loop.run(lambda step: "enough" if step.step == 1 else "") == "enough"
    assert len(loop.steps) == 2


def test_on_step_ends_the_run_and_a_later_one_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch, sixes_are_better, steps=4)
    assert loop.run(lambda step: step.step == 1) == "stopped by on_step"
    assert (loop.state.step, loop.state.index) == (2, 2)
    assert loop.state.incumbent.prompt_ids == loop.steps[-1].prompt_ids == (6, 6, 99)
    assert loop.run() == "all steps done"
    whole = Loop(monkeypatch, sixes_are_better, steps=4)
    whole.run()
    assert [s.prompt_ids for s in loop.steps] == [s.prompt_ids for s in whole.steps]
    assert whole.engine.num_generated_tokens == loop.engine.num_generated_tokens


def test_an_error_of_on_step_leaves_a_finished_state(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch, sixes_are_better, steps=4)

    def interrupt(step: Step) -> None:
        if step.step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.run(interrupt)
    assert loop.state.step == 2
    assert loop.state.incumbent.prompt_ids == (6, 6, 99)


@pytest.mark.parametrize("number", [None, 0, 2])
def test_a_step_says_how_many_rows_its_gradient_contrasts(
    monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    loop = Loop(monkeypatch, sixes_are_better, steps=1)
    loop.num_contrasted = number
    loop.run()
    assert [step.num_contrasted for step in loop.steps] == [number]


def test_a_random_shortlist_takes_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch, never_better, steps=2, shortlist="random", gradient="both")
    loop.shortlist = {5: None, 6: None}
    loop.run()
    assert loop.gradients_at == []
    assert [trial.score for step in loop.steps for trial in step.trials] == [None] * 4
    assert {step.num_contrasted for step in loop.steps} == {None}


def test_an_error_in_a_stage_leaves_the_step_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch, sixes_are_better, steps=4)
    loop.run(lambda step: True)

    def broken(*_: Any) -> None:
        raise FloatingPointError("the loss of example 2 is nan")

    monkeypatch.setattr(optimizer, "step_gradient", broken)
    with pytest.raises(FloatingPointError, match="example 2"):
        loop.run()
    assert (loop.state.step, loop.state.index) == (1, 1)
    assert loop.state.incumbent.prompt_ids == (6, 2, 99)


def test_a_step_is_recorded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch, sixes_are_better, steps=1, batch_size=1)
    loop.run()
    (step,) = loop.steps
    assert (step.step, step.index, step.grows, step.changed) == (0, 0, False, True)
    assert (step.prompt, step.prompt_ids) == ("w6 w2.", (6, 2, 99))
    assert step.objective == pytest.approx(1 / 3 + 0.02 * 4.5)
    assert step.error_rate == pytest.approx(1 / 3)
    assert (step.candidate_ids, step.candidate_top_k) == ((5, 6, 7), 10)
    better, worse = step.trials
    assert (better.token_id, better.token, better.score) == (6, " w6", -2.0)
    assert better.objective == step.objective
    assert (worse.token_id, worse.token, worse.score) == (5, " w5", -1.0)
    assert worse.objective == pytest.approx(1 / 3 + 0.02 * 9.0)
    assert step.num_generated_tokens == 2 * 3 * 2  # two prompts, three rows, two tokens each
    assert list(step.seconds) == ["propose", "gradient", "score", "select"]
    assert step.peak_memory_bytes > 10 * 2**20
    assert set(step.to_dict()) == set(Step.__dataclass_fields__)
    assert set(Meter(as_engine(loop.engine)).readings()) == set(WORK_FIELDS)


def test_a_pruned_trial_is_recorded_without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(
        monkeypatch, lambda ids, row: made_up(row == 0, nll=99.0 if 5 in ids else 1.0), steps=1
    )
    loop.engine.batch_size = 1
    loop.run()
    kept, pruned = loop.steps[0].trials
    assert kept.objective is not None
    assert (pruned.token_id, pruned.objective, pruned.error_rate) == (5, None, None)


def test_a_trial_that_was_dropped_is_recorded_with_its_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Token 5 misses all rows, the other prompts 15 of 20."""
    loop = Loop(monkeypatch, lambda ids, row: made_up(5 in ids or row > 4), steps=1, race=0.5)
    loop.layouts = table_layouts(20, (1, 2, 99))
    loop.state = optimizer.start(as_engine(loop.engine), loop.layouts, loop.config)
    loop.run()
    kept, dropped = loop.steps[0].trials
    assert (kept.objective, kept.dropped_after) == (pytest.approx(0.75 + 0.02), None)
    assert (dropped.objective, dropped.error_rate) == (None, None)
    assert dropped.dropped_after == loop.state.dropped[5, 2, 99]
    assert loop.steps[0].to_dict()["trials"][1]["dropped_after"] == dropped.dropped_after


def flat_warnings(loop: Loop) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop.run()
    return [str(w.message) for w in caught if w.category is RuntimeWarning]


@pytest.mark.parametrize(
    ("wrong", "message"), [(True, "wrong for .* use easier rows"), (False, "right .* use harder")]
)
def test_flat_errors_warn_once(monkeypatch: pytest.MonkeyPatch, wrong: bool, message: str) -> None:
    loop = Loop(monkeypatch, lambda ids, row: made_up(wrong, nll=9.0 / (1 + ids.count(6))), steps=3)
    with pytest.warns(RuntimeWarning, match=f"all 3 training rows are {message}"):
        loop.run(lambda step: True)
    again = Loop(monkeypatch, loop.engine.rollout, steps=3)
    assert len(flat_warnings(again)) == 1


def test_flat_errors_do_not_warn_where_they_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    def flat(ids: tuple[int, ...], row: int) -> Rollout:
        return made_up(True, nll=9.0 / (1 + ids.count(6)))

    assert not flat_warnings(Loop(monkeypatch, flat, steps=3, objective="loss"))
    assert not flat_warnings(Loop(monkeypatch, sixes_are_better, steps=3))
    only_one = Loop(monkeypatch, flat, steps=3)
    only_one.shortlist = {}
    assert not flat_warnings(only_one)


def test_growth_takes_the_gradient_at_the_likeliest_candidate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Token 7 is the likeliest, but no part of the shortlist."""
    loop = Loop(monkeypatch, sixes_are_better, (1, 2), steps=1)
    loop.state.index = 2
    loop.run()
    assert loop.places == [Position(0, 2, (1, 2))]
    assert loop.gradients_at == [Position(0, 2, (1, 2, 7))]
    assert loop.engine.prompts == [(1, 2), (1, 2, 6), (1, 2, 5)]
    assert list(loop.state.scored) == loop.engine.prompts
    (step,) = loop.steps
    assert step.grows
    assert step.changed
    assert step.prompt_ids == (1, 2, 6)
    assert loop.state.next_position(loop.layouts, Config()) == Position(1, 3, (1, 2, 6))


def test_growth_that_does_not_win_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    def ungrown(ids: tuple[int, ...], row: int) -> Rollout:
        return made_up(row == 0, nll=float(len(ids)) if ids[0] == 6 else 9.0)

    loop = Loop(monkeypatch, ungrown, (1, 2), steps=5)
    loop.run()
    assert [(p.index, len(p.prompt_ids)) for p in loop.places] == [
        (0, 2),
        (1, 2),
        (2, 2),
        (0, 2),
        (1, 2),
    ]


def test_growth_without_a_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch, sixes_are_better, (1, 2), steps=1)
    loop.state.index, loop.shortlist = 2, {}
    loop.candidates = Candidates((), (), 10)
    loop.run()
    assert loop.gradients_at == []  # the new place holds nothing yet
    assert loop.steps[0].trials == ()
    assert not loop.steps[0].changed


@pytest.mark.parametrize(
    ("candidates", "num_gradients"), [("lm", 0), ("vocabulary", 1), ("both", 1)]
)
def test_a_place_without_proposals(
    monkeypatch: pytest.MonkeyPatch, candidates: str, num_gradients: int
) -> None:
    """A gradient finds something in the vocabulary alone."""
    loop = Loop(monkeypatch, sixes_are_better, steps=1, candidates=candidates)
    loop.candidates = Candidates((), (), 10)
    loop.run()
    assert len(loop.gradients_at) == num_gradients


def test_who_has_a_metric_is_not_told_to_use_one(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch, lambda ids, row: made_up(True), steps=1)
    with pytest.warns(RuntimeWarning, match=FLAT):
        loop.run()
    measured = dataclasses.replace(loop.layouts, metric=lambda predicted, example: 0.0)
    for layouts, is_told in ((loop.layouts, True), (measured, False)):
        note = optimizer.flat_note(loop.state, layouts, loop.config)
        assert note is not None
        assert ("a metric that finds the answer" in note) == is_told


@pytest.mark.parametrize(("limit", "is_told"), [(2, True), (3, False)])
def test_reasonings_that_were_all_cut_off_are_told(
    monkeypatch: pytest.MonkeyPatch, limit: int, is_told: bool
) -> None:
    loop = Loop(monkeypatch, lambda ids, row: made_up(True), steps=1, max_new_tokens=limit)
    with pytest.warns(RuntimeWarning, match=FLAT) as warned:
        loop.run()
    assert ("raise max_new_tokens" in str(warned[0].message)) == is_told


def test_a_reasoning_that_ended_is_enough_for_none_to_be_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def rollout(ids: tuple[int, ...], row: int) -> Rollout:
        return dataclasses.replace(made_up(True), end_id=9 if row == 0 else None)

    loop = Loop(monkeypatch, rollout, steps=1, max_new_tokens=2)
    with pytest.warns(RuntimeWarning, match=FLAT) as warned:
        loop.run()
    assert "raise max_new_tokens" not in str(warned[0].message)


@pytest.mark.filterwarnings(f"ignore:all .* {FLAT}:RuntimeWarning")
def test_the_loop_with_a_model_runs_no_placeholder(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, config = tiny_lm(), small_config(steps=3, objective="loss")
    layouts = layouts_of(lm, 3, UNFINISHED)
    engine = PlainRolloutEngine(lm, 8, config.temperature)
    run_prompts: list[tuple[int, ...]] = []
    gradients_at: list[Position] = []
    own_run = PlainRolloutEngine.run

    def seeing(
        self: PlainRolloutEngine, requests: list[RolloutRequest], on_finished: Any = None
    ) -> list[Rollout | None]:
        run_prompts.extend(r.prompt_ids[slice(*r.prompt_span)] for r in requests)
        return own_run(self, requests, on_finished)

    def gradient(*args: Any) -> StepGradient:
        gradients_at.append(args[3])
        return step_gradient(*args)

    monkeypatch.setattr(PlainRolloutEngine, "run", seeing)
    monkeypatch.setattr(optimizer, "step_gradient", gradient)
    state: LoopState = optimizer.start(engine, layouts, config)
    state.index = len(layouts.prompt_ids)
    steps: list[Step] = []
    optimizer.run(engine, layouts, config, state, steps.append)
    first = steps[0]
    assert first.grows
    placeholder = gradients_at[0].prompt_ids
    assert placeholder[:-1] == layouts.prompt_ids
    shortlisted = {(*layouts.prompt_ids, t.token_id) for t in first.trials}
    assert placeholder not in shortlisted
    assert shortlisted <= set(run_prompts)
    assert placeholder not in run_prompts
    assert placeholder not in state.scored
