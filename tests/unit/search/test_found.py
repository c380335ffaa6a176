"""A search by itself is the loop of a run; who judges its prompts decides their order."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from greater_fast.engine import Engine
from greater_fast.examples.layout import Layouts
from greater_fast.model.lm import load_lm
from greater_fast.model.text.stop_texts import StopTexts
from greater_fast.rollouts.choose import make_engine
from greater_fast.runs.evaluation import evaluate_prompt
from greater_fast.search.ensemble import Ensemble
from greater_fast.search.found import Found, find_prompts
from greater_fast.search.nouns import Position, Step
from greater_fast.search.optimizer import run, start
from greater_fast.search.reasonings import ReasoningStore, draw_reasonings
from greater_fast.search.selection import score_prompts
from greater_fast.search.state import LoopState, rollouts_of
from tests.cases import layouts_of, small_config, tiny_lm
from tests.tiny import PROMPT

SETTINGS: dict[str, Any] = {"steps": 3, "max_new_tokens": 6, "objective": "loss"}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return make_engine(tiny_lm(), small_config(**SETTINGS))[0]


def find(engine: Engine, layouts: Layouts | None = None, **more: Any) -> Found:
    config = small_config(**{**SETTINGS, **more.pop("settings", {})})
    return find_prompts(engine, layouts or layouts_of(tiny_lm(), 4), config, **more)


def test_the_prompts_are_those_of_the_loop(engine: Engine) -> None:
    config, layouts = small_config(**SETTINGS), layouts_of(tiny_lm(), 4)
    state = start(engine, layouts, config)
    stopped = run(engine, layouts, config, state, lambda _: False)
    found = find(engine, layouts)
    best = state.best(config.num_finalists, config)
    assert [p.prompt_ids for p in found.prompts[: len(best)]] == [s.prompt_ids for s in best]
    assert (found.stopped, found.num_steps) == (stopped, 3)
    assert found.best.objective < found.initial.objective
    objectives = [prompt.objective for prompt in found.prompts]
    assert objectives == sorted(objectives)
    assert found.initial.prompt == PROMPT
    assert found.initial in found.prompts
    for prompt in found.prompts:
        objective = state.scored[prompt.prompt_ids].objective
        assert prompt.answer_loss == objective.answer_loss > 0
        assert prompt.prompt_nll == objective.prompt_nll > 0
        assert prompt.objective == prompt.answer_loss + config.fluency_weight * prompt.prompt_nll
        assert prompt.judged is None


def test_a_judge_decides_the_order(engine: Engine) -> None:
    plain = [prompt.prompt for prompt in find(engine).prompts]
    asked: list[tuple[str, ...]] = []

    def judge(prompts: Sequence[str]) -> list[float]:
        asked.append(tuple(prompts))
        return [float(prompts.index(prompt)) for prompt in prompts]

    found = find(engine, judge=judge)
    assert asked == [tuple(plain)]
    assert [prompt.prompt for prompt in found.prompts] == plain[::-1]
    assert [prompt.judged for prompt in found.prompts] == [*range(len(plain) - 1, -1, -1)]


def test_of_equals_the_initial_prompt_comes_first(engine: Engine) -> None:
    plain = [prompt.prompt for prompt in find(engine).prompts]
    found = find(engine, judge=lambda prompts: [0.5] * len(prompts))
    assert found.best is found.initial
    assert [p.prompt for p in found.prompts[1:]] == [text for text in plain if text != PROMPT]
    least = find(engine, judge=lambda prompts: [-float(text == PROMPT) for text in prompts])
    assert least.prompts[-1] is least.initial


def test_what_was_found_may_be_judged_afterwards(engine: Engine) -> None:
    def judge(prompts: Sequence[str]) -> list[float]:
        return [len(prompts) - abs(place - 1) for place in range(len(prompts))]

    plain = find(engine)
    judged = plain.judged_by(judge)
    assert judged == find(engine, judge=judge)
    assert judged.best.prompt == plain.prompts[1].prompt
    assert plain == find(engine)
    with pytest.raises(ValueError, match=r"^judge: got "):
        plain.judged_by(lambda prompts: [0.0])


@pytest.mark.parametrize("values", [[1.0], None, ["a"] * 9, [float("nan")] * 9])
def test_what_no_judge_may_give(engine: Engine, values: Any) -> None:
    with pytest.raises(ValueError, match=r"^judge: got "):
        find(engine, judge=lambda prompts: values and values[: len(prompts)])


def test_who_is_interrupted_is_told_of_the_best_prompt(engine: Engine) -> None:
    """At Ctrl-C in a step, in the judge's error, and where the judge gives something else."""
    best = find(engine).best.prompt

    def raise_it(error: BaseException) -> Any:
        raise error

    for judge in (
        lambda prompts: raise_it(KeyboardInterrupt()),
        lambda prompts: raise_it(OSError("no judge")),
        lambda prompts: None,
    ):
        with pytest.raises((KeyboardInterrupt, OSError, ValueError)) as caught:
            find(engine, judge=judge)
        assert caught.value.__notes__ == [f"the best prompt until then: {best}"]
    first = find(engine, on_step=lambda step: True).best.prompt
    with pytest.raises(KeyboardInterrupt) as interrupted:
        find(engine, on_step=lambda step: raise_it(KeyboardInterrupt()))
    assert interrupted.value.__notes__ == [f"the best prompt until then: {first}"]


def loss(logits: Any, ids: Any) -> Any:
    raise AssertionError


@pytest.mark.parametrize(
    ("settings", "more", "message"),
    [
        ({"gradient": "reasoning"}, {"loss": loss}, "loss: got a function with gradient 'reas"),
        ({}, {"loss": 3}, "loss: got 3, expected a function"),
        ({}, {"on_step": lambda: None}, "on_step: got one that takes"),
        ({}, {"judge": "best"}, "judge: got 'best', expected a function"),
        ({"gradient": "both"}, {"stop": "x"}, "stop_texts: got some with gradient 'both'"),
        ({"gradient": "reasoning"}, {"stop": "x"}, "stop_texts: got some with gradient 'reas"),
        ({"race": 0.1, "objective": "error"}, {"two": True}, "race: got 0.1 with 2 models"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_any_step(
    engine: Engine,
    settings: dict[str, Any],
    more: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "run", lambda *given: pytest.fail("it began"))
    layouts = layouts_of(tiny_lm(), 4)
    if stop := more.pop("stop", None):
        layouts = replace(layouts, stop=StopTexts(layouts.vocabulary, [stop]))
    models = Ensemble([engine, engine]) if more.pop("two", False) else engine
    with pytest.raises(ValueError, match=message):
        find_prompts(models, layouts, small_config(**{**SETTINGS, **settings}), **more)


def test_stop_texts_go_with_the_gradient_of_answers(engine: Engine) -> None:
    layouts = layouts_of(tiny_lm(), 4)
    stopped = replace(layouts, stop=StopTexts(layouts.vocabulary, ["e"]))
    assert find(engine, stopped).num_steps == 3


def test_minutes_are_ignored_with_a_warning(engine: Engine) -> None:
    with pytest.warns(RuntimeWarning, match="minutes: without effect on find_prompts"):
        found = find(engine, settings={"minutes": 0.001})
    assert found.num_steps == 3


def test_two_searches_on_end_are_one(engine: Engine) -> None:
    whole = find(engine, settings={"steps": 3})
    first = find(engine, settings={"steps": 1})
    kept = first.state.to_dict()
    second = find(engine, settings={"steps": 2}, state=first.state)
    assert second == whole
    assert second.state.to_dict() == whole.state.to_dict()
    assert (first.num_steps, first.state.to_dict()) == (1, kept)


def test_a_search_that_asks_for_reasonings_later_has_those_of_all_prompts(engine: Engine) -> None:
    best = {"accept": "best", "shortlist": "random"}
    first = find(engine, settings={**best, "steps": 2})
    asking = {**best, "gradient": "reasoning", "shortlist": "gradient", "steps": 0}
    assert first.state.reasonings.rows == []
    second = find(engine, settings=asking, state=first.state)
    expected = ReasoningStore()
    for each in first.state.scored.values():
        expected.add(each.rollouts, small_config(**SETTINGS).num_reasonings)
    assert max(len(row) for row in expected.rows) > 1
    assert second.state.reasonings == expected
    assert find(engine, settings=asking, state=second.state).state.reasonings == expected


def test_a_state_of_another_search_is_refused(engine: Engine) -> None:
    state = find(engine, settings={"steps": 1}).state
    layouts = layouts_of(tiny_lm(), 4)
    for other in (layouts.with_prompt("Think about the sum."), layouts_of(tiny_lm(), 3)):
        with pytest.raises(ValueError, match=r"state: it is of a search .* from another prompt"):
            find(engine, other, state=state)


def test_a_state_of_another_model_or_metric_is_refused(engine: Engine) -> None:
    """What a prompt came to with another one bounds nothing here."""
    state = find(engine, settings={"steps": 1}).state
    own = tiny_lm()
    others = (
        replace(own, name="another"),
        replace(own, end_ids=own.end_ids | {7}),
        load_lm((copy.deepcopy(own.model).double(), own.tokenizer)),
    )
    for lm in others:
        other, _ = make_engine(lm, small_config(**SETTINGS))
        with pytest.raises(ValueError, match="state: it is of a search with another model"):
            find(other, layouts_of(lm, 4), state=state)
    measured = replace(layouts_of(own, 4), metric=lambda predicted, example: 0.0)
    with pytest.raises(ValueError, match="state: it is of a search with another model"):
        find(engine, measured, state=state)


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "error"},
        {"max_new_tokens": 3},
        {"temperature": 0.7},
        {"fluency_weight": 0.5},
        {"error_fluency_weight": 0.5},
        {"sampling_temperature": 0.9},
    ],
)
def test_a_state_of_other_settings_is_refused(engine: Engine, settings: dict[str, Any]) -> None:
    state = find(engine, settings={"steps": 1}).state
    other, _ = make_engine(tiny_lm(), small_config(**{**SETTINGS, **settings}))
    with pytest.raises(ValueError, match=r"with other settings of objective, metric, .*no state"):
        find(other, settings=settings, state=state)
    assert find(engine, settings={"steps": 1, "accept": "best"}, state=state).num_steps == 2


def test_a_state_of_as_many_other_rows_is_refused(engine: Engine) -> None:
    state = find(engine, settings={"steps": 1}).state
    layouts = layouts_of(tiny_lm(), 4)
    first, *others = layouts.rows
    changed = (
        replace(first, answer_ids=first.answer_ids * 2),
        replace(first, head_ids=first.head_ids[:-1]),
        replace(first, tail_ids=first.tail_ids[:-1]),
    )
    several = [replace(layouts, rows=(row, *others)) for row in changed]
    several.append(replace(layouts, rows=(*others, first)))
    several.append(replace(layouts, extractor_ids=layouts.extractor_ids[:-1]))
    stop = StopTexts(layouts.vocabulary, ["e"])
    several += [replace(layouts, stop=stop), replace(layouts, answer_stop=stop)]
    other_gold = replace(first, example=replace(first.example, other_answers=("x",)))
    several.append(replace(layouts, rows=(other_gold, *others)))
    for other in several:
        with pytest.raises(ValueError, match="on other rows, or with other settings"):
            find(engine, other, state=state)
    whole = find(engine, layouts_of(tiny_lm(), 4), settings={"steps": 1}, state=state)
    assert whole.num_steps == 2  # rows laid out again are the same rows


def test_the_two_kinds_of_stop_texts_are_told_apart(engine: Engine) -> None:
    plain = layouts_of(tiny_lm(), 4)
    stop = StopTexts(plain.vocabulary, ["e"])
    state = find(engine, replace(plain, stop=stop), settings={"steps": 1}).state
    with pytest.raises(ValueError, match="state: it is of"):
        find(engine, replace(plain, answer_stop=stop), state=state)


def test_samples_of_another_seed_are_other_rows() -> None:
    sampling = {**SETTINGS, "sampling_temperature": 0.9, "steps": 1}
    one, other = (make_engine(tiny_lm(), small_config(**sampling, seed=seed))[0] for seed in (0, 1))
    state = find(one, settings={**sampling, "seed": 0}).state
    with pytest.raises(ValueError, match="state: it is of"):
        find(other, settings={**sampling, "seed": 1}, state=state)


def test_a_state_that_was_written_down_is_gone_on_with(engine: Engine) -> None:
    """It says nothing of models and settings: the number of rows is all that tells."""
    state = find(engine, settings={"steps": 1}).state
    written = [rollouts_of(scored) for scored in state.scored.values()]
    read = LoopState.from_dict(state.to_dict(), iter(written))
    found, whole = find(engine, settings={"steps": 2}, state=read), find(engine)
    assert [p.prompt for p in found.prompts] == [p.prompt for p in whole.prompts]
    with pytest.raises(ValueError, match="state: it is of"):
        find(engine, layouts_of(tiny_lm(), 3), state=read)


def test_a_step_may_end_it(engine: Engine) -> None:
    steps: list[Step] = []
    found = find(engine, on_step=lambda step: steps.append(step) or True)
    assert (found.num_steps, len(steps), found.stopped) == (1, 1, "stopped by on_step")


def test_one_row_is_enough(engine: Engine) -> None:
    found = find(engine, layouts_of(tiny_lm(), 1))
    assert found.num_steps == 3


def test_reasonings_end_at_the_rows_stop_texts(engine: Engine) -> None:
    """In a search, in draws and in an evaluation."""
    config = small_config(**SETTINGS, gradient="both", reasonings="sampled", num_reasonings=2)
    drawing = make_engine(tiny_lm(), config)[0]
    plain = layouts_of(tiny_lm(), 6)
    text = plain.vocabulary.text

    def reasonings(layouts: Layouts) -> list[list[str]]:
        (scored,) = score_prompts(engine, layouts, [layouts.prompt_ids], config)
        assert scored is not None
        drawn = draw_reasonings(drawing, layouts, Position(0, 0, layouts.prompt_ids), config)
        evaluated = evaluate_prompt(engine, layouts, layouts.prompt_ids, config).rows
        return [
            [text(rollout.reasoning_ids) for rollout in scored.rollouts],
            [text(reasoning.ids) for row in drawn for reasoning in row],
            [row.reasoning for row in evaluated],
        ]

    whole = reasonings(plain)
    letters = "".join(whole[0] + whole[1])
    stop = max("abcdefghijklmnopqrstuvwxyz", key=letters.count)
    found = reasonings(replace(plain, stop=StopTexts(plain.vocabulary, [stop])))
    assert all(stop in "".join(texts) for texts in whole)
    assert found[:2] == [[own.partition(stop)[0] for own in texts] for texts in whole[:2]]
    assert found[2] == [own.strip() for own in found[0]]


@pytest.mark.parametrize("name", ["paged", "generate"])
def test_answers_end_at_the_rows_stop_texts(name: str) -> None:
    """In a search that generates answers, and in an evaluation."""
    config = small_config(**{**SETTINGS, "objective": "error", "engine": name})
    engine = make_engine(tiny_lm(), config)[0]
    plain = replace(layouts_of(tiny_lm(), 6), metric=lambda predicted, row: 0.5)
    text = plain.vocabulary.text

    def answers(layouts: Layouts) -> tuple[list[str], list[str]]:
        (scored,) = score_prompts(engine, layouts, [layouts.prompt_ids], config)
        assert scored is not None
        evaluated = evaluate_prompt(engine, layouts, layouts.prompt_ids, config).rows
        return [text(rollout.answer_ids) for rollout in scored.rollouts], [
            row.predicted for row in evaluated
        ]

    whole, _ = answers(plain)
    stop = max("abcdefghijklmnopqrstuvwxyz", key="".join(whole).count)
    assert any(stop in own for own in whole)
    found, evaluated = answers(replace(plain, answer_stop=StopTexts(plain.vocabulary, [stop])))
    assert found == [own.partition(stop)[0] for own in whole]
    assert evaluated == [plain.extractor.cut(own) for own in found]
    assert evaluated != [plain.extractor.cut(own) for own in whole]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 1.0}, r"temperature: got 1.0 for an engine that was made with 0\.\d"),
        ({"sampling_temperature": 0.7}, "sampling_temperature: got 0.7 for an engine .* with 0.0"),
        ({"gradient": "both", "reasonings": "sampled"}, "engine that was made without draws"),
        ({"gradient": "both", "reasonings": "sampled", "seed": 9}, "seed: got 9 for an engine"),
    ],
)
def test_an_engine_of_other_settings_is_refused(
    engine: Engine, settings: dict[str, Any], message: str
) -> None:
    """Before anything is scored; a seed decides where something is drawn by the engine alone."""
    before = engine.num_generated_tokens
    with pytest.raises(ValueError, match=f"{message}.*make_engine"):
        find(engine, settings=settings)
    assert engine.num_generated_tokens == before
    assert find(engine, settings={"seed": 9, "steps": 0}).num_steps == 0
