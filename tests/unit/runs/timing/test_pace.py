"""How long is left: by rows and tokens in proportion, by the steps so far."""

from dataclasses import replace
from typing import Any

import pytest

from greater_fast.config import Config
from greater_fast.engine import Rollout
from greater_fast.runs.timing.pace import Pace
from greater_fast.search.nouns import Scored, Step
from greater_fast.search.state import LoopState
from tests.cases import table_layouts
from tests.unit.runs.timing.machine import PROMPT_IDS, scored


def reasoning(number: int, prompt_ids: tuple[int, ...] = PROMPT_IDS, num_rows: int = 4) -> Scored:
    """A prompt whose reasoning has so many tokens on each row."""
    plain = scored(prompt_ids, num_rows)
    rollouts = tuple(replace(r, reasoning_ids=(7,) * number) for r in plain.rollouts)
    return replace(plain, rollouts=rollouts)


def pace_of(initial: Scored, seconds: float = 10.0, **sizes: int) -> Pace:
    layouts = {name: table_layouts(n, PROMPT_IDS) for name, n in {"train": 4, **sizes}.items()}
    pace = Pace(layouts, Config(shortlist_size=3, num_finalists=2, steps=50))
    pace.add_score(initial, seconds)
    return pace


def step(**seconds: float) -> Step:
    return Step(0, 0, False, "", (), 0.0, 0.0, (), 10, (), True, seconds=seconds)


def test_rows_and_tokens_count_in_proportion() -> None:
    """A score of 4 rows with 90 tokens; evaluation writes up to 9 tokens of an answer more."""
    initial = reasoning(90)
    pace = pace_of(initial, dev=12, test=3)
    assert pace.evaluation("train", initial) == pytest.approx(10 * 99 / 90)
    assert pace.evaluation("dev", initial) == pytest.approx(10 * 3 * 99 / 90)
    assert pace.evaluation("test", initial) == pytest.approx(
        10 * 99 / 90
    )  # fewer rows gain nothing
    longer = reasoning(180)
    assert pace.evaluation("dev", longer) == pytest.approx(10 * 3 * 189 / 90)
    both = pace.evaluation("dev", initial, longer)
    assert both == pytest.approx(10 * 3 * (99 + 189) / 90)
    assert pace.evaluation("dev") == 0.0


def test_shorter_reasoning_is_not_trusted() -> None:
    initial, shorter = reasoning(90), reasoning(9, PROMPT_IDS[:1])
    pace = pace_of(initial, dev=4)
    assert pace.evaluation("dev", shorter) == 10.0


def test_reading_counts_where_it_is_more() -> None:
    """A prompt four times as long as head, prompt and tail were; two tokens written, and nine."""
    initial = reasoning(90)
    longer = reasoning(90, PROMPT_IDS * 6)
    pace = pace_of(initial, dev=4)
    assert pace.evaluation("dev", longer) == pytest.approx(10 * 20 / 5)


def test_no_reasoning_at_all() -> None:
    nothing = reasoning(0)
    assert pace_of(nothing, dev=4).evaluation("dev", nothing) == pytest.approx(10 * 9)


def test_a_set_that_is_not_there_takes_no_time() -> None:
    assert pace_of(reasoning(9), dev=4).evaluation("test", reasoning(9)) == 0.0


def test_the_last_evaluation_is_what_is_gone_by() -> None:
    initial = reasoning(90)
    pace = pace_of(initial, dev=12, test=24)
    pace.add_evaluation("dev", initial, 60.0)
    assert pace.evaluation("dev", initial) == 60.0
    assert pace.evaluation("test", initial) == 120.0
    assert pace.evaluation("train", initial) == 60.0


def test_the_next_step_is_guessed_then_like_the_longest_of_the_last_ones() -> None:
    pace = pace_of(reasoning(9))
    assert pace.next_step() == 10.0 * (3 + 1)
    for seconds in (99.0, 5.0, 7.0, *[3.0] * 7):
        pace.add_step(step(), seconds)
    assert pace.next_step() == 99.0
    pace.add_step(step(), 3.0)  # the eleventh: the first is no longer like those to come
    assert pace.next_step() == 7.0


@pytest.mark.parametrize(
    ("num_known", "num_steps", "finalists", "tests"),
    [(1, 0, 1, 1), (2, 0, 2, 2), (3, 0, 3, 2), (1, 1, 3, 2), (1, 9, 3, 2), (7, 0, 3, 2)],
)
def test_finals_are_of_the_best_and_the_initial_prompt(
    num_known: int, num_steps: int, finalists: int, tests: int
) -> None:
    initial = reasoning(9)
    pace = pace_of(initial, dev=4, test=4)
    state = LoopState(initial)
    for number in range(1, num_known):
        state.scored[number,] = reasoning(9, (number, 2, 3))
    finals = pace.finals(state, num_steps)
    assert (finals.num_finalists, finals.num_tests) == (finalists, tests)
    each = 10 * 18 / 9
    assert finals.dev == finals.train == finals.test == pytest.approx(each)
    assert finals.seconds == pytest.approx(each * (finalists + 1 + tests))


def test_where_the_search_measures_answers_training_rows_are_not_evaluated_again() -> None:
    """Its score has written the answers too, as an evaluation does."""
    layouts = {name: table_layouts(4, PROMPT_IDS) for name in ("train", "dev")}
    layouts["train"] = replace(layouts["train"], metric=lambda predicted, example: 1.0)
    initial = reasoning(90)
    for objective, train, dev in (("error", 0.0, 10.0), ("loss", 11.0, 11.0)):
        pace = Pace(layouts, Config(objective=objective))
        pace.add_score(initial, 10.0)
        found = pace.finals(LoopState(initial), num_steps=0)
        assert (found.train, found.dev) == (pytest.approx(train), pytest.approx(dev))


def test_a_step_is_guessed_with_the_reasonings_of_its_gradient() -> None:
    """Four samples of each row, their gradients and that of the answer: 9 scores, and 3."""
    layouts = {"train": table_layouts(4, PROMPT_IDS)}
    pace = Pace(layouts, Config(gradient="both", reasonings="sampled", num_reasonings=4))
    pace.add_score(reasoning(9), 10.0)
    assert pace.next_step() == 10.0 * (4 + 4 + 1 + 3)


def test_the_estimate_follows_what_is_measured() -> None:
    initial = reasoning(9)
    pace, state = pace_of(initial, dev=4), LoopState(initial)
    first = pace.estimate(state, 50)
    assert (first.num_measured, first.step) == (0, {"gradient": 10.0, "select": 30.0})
    pace.add_step(step(gradient=8.0, select=20.0), 30.0)
    one = pace.estimate(state, 49)
    assert (one.num_measured, one.step) == (1, {"gradient": 8.0, "select": 20.0, "else": 2.0})
    pace.add_step(step(gradient=1.0, select=2.0), 4.0)
    pace.add_step(step(gradient=3.0, select=4.0), 8.0)
    three = pace.estimate(state, 47)
    assert (three.num_measured, three.step) == (3, {"gradient": 2.0, "select": 3.0, "else": 1.0})
    assert three.less["num_train=2"] < three.seconds / 2  # of 4 rows, though 50 were allowed
    assert three.seconds == pytest.approx(47 * 6.0 + three.finals.seconds)


def test_rollouts_of_the_finalists_are_what_finals_are_judged_by() -> None:
    """An own reckoning: each finalist's tokens, and the mean for those still unknown."""
    initial, other = reasoning(90), reasoning(180, (5, 6, 7))
    state = LoopState(initial)
    state.scored[other.prompt_ids] = other
    dev = pace_of(initial, dev=8).finals(state, 0).dev
    assert dev == pytest.approx(2 * 10 * (99 / 90 + 189 / 90) / 2)


def test_rows_are_as_the_rollouts_say(monkeypatch: Any) -> None:
    """Rollouts of unlike lengths count by their mean."""
    initial = scored(PROMPT_IDS, 2)
    lengths = (Rollout((7,) * 10, (-1.0,), (True,), 1.0), Rollout((7,) * 30, (-1.0,), (True,), 1.0))
    initial = replace(initial, rollouts=lengths)
    assert pace_of(initial, train=2, dev=2).evaluation("dev", initial) == pytest.approx(
        10 * 29 / 20
    )
