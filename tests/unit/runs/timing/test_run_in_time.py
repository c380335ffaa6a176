"""A run with a limit of minutes: kept whenever the estimates are right, and nothing is lost."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greater_fast.ranks import Ranks
from greater_fast.runs.directory import RunDirectory
from greater_fast.runs.result import Result
from greater_fast.runs.timing.pace import Pace
from greater_fast.runs.timing.time_budget import MARGIN
from greater_fast.search.nouns import Step
from tests.threads import on_threads
from tests.unit.runs.timing.machine import PROMPT_IDS, Machine, machines_work

STEPS = {"steps": 12, "num_finalists": 4}
LONG = {"steps": 99, "num_finalists": 4}


@pytest.fixture(autouse=True, scope="module")
def on_machines() -> Iterator[None]:
    with machines_work():
        yield


def assert_complete(result: Result, has_test: bool = True) -> None:
    """The best and the initial prompt were compared on all rows that there are."""
    assert result.best.dev is not None
    assert result.baseline.dev is not None
    assert (result.test_comparison is not None) == has_test
    assert result.baseline.prompt_ids == PROMPT_IDS


def test_without_a_limit_all_is_done() -> None:
    machine = Machine()
    result = machine.run(None, **STEPS)
    assert (result.stopped, len(result.steps)) == ("all steps done", 12)
    assert all(finalist.dev for finalist in result.finalists)
    assert result.notes == ()
    num_dev = [rows for rows, _ in machine.evaluated].count(10)
    assert num_dev == len(result.finalists) == 5


def test_a_limit_that_is_not_met_changes_nothing_but_a_note() -> None:
    free, limited = Machine(), Machine()
    without, within = free.run(None, **STEPS), limited.run(10_000.0, **STEPS)
    assert within.finalists == without.finalists
    assert within.stopped == without.stopped
    assert limited.evaluated == free.evaluated
    assert within.notes == (
        "minutes=10000: how far a run comes in that time depends on the machine, and so does its "
        "result",
    )


def test_as_many_steps_as_there_is_time_for() -> None:
    """By hand: finals of 5 prompts, the training rows, and two tests, all with the margin."""
    machine = Machine()
    dev, train, test = (machine.seconds_of(name) for name in ("dev", "train", "test"))
    assert (dev, train, test) == (110.0, 55.0, 220.0)
    finals = 5 * dev + train + 2 * test
    num_steps = 40
    end = 10 + 30 * (num_steps - 1) + MARGIN * (30 + finals)
    assert finals < (end - 10) / 2
    result = machine.run((end + 1e-6) / 60, **LONG)
    assert (result.stopped, len(result.steps)) == ("out of time", num_steps)
    assert machine.time <= end
    assert all(finalist.dev for finalist in result.finalists)
    assert result.baseline.train is not None
    assert_complete(result)
    assert len(result.notes) == 1
    fewer = Machine().run((end - 1e-6) / 60, **LONG)
    assert (fewer.stopped, len(fewer.steps)) == ("out of time", num_steps - 1)


def test_finals_leave_half_of_the_time_to_the_search() -> None:
    """By hand: of 1,490 s 740 are for finals, which would take 1,045, and with two prompts 660."""
    machine = Machine()
    end = 1490
    num_steps = 19  # 10 + 18 * 30 + 1.2 * (30 + 740) is 1,474, and 1,504 a step later
    result = machine.run(end / 60, **LONG)
    assert (result.stopped, len(result.steps)) == ("out of time", num_steps)
    assert machine.time <= end
    measured = [finalist.dev is not None for finalist in result.finalists]
    assert measured == [True, True, False, False, True]
    assert_complete(result)


def test_where_a_judge_chooses_two_prompts_are_left_time_for() -> None:
    """By hand: finals are 2 dev, train and 2 tests, 715 s, in place of the 1,045 of 5 prompts."""
    machine = Machine()
    end = 1490
    num_steps = 20  # 10 + 19 * 30 + 1.2 * (30 + 715) is 1,474, and 1,504 a step later
    result = machine.run(end / 60, judge=lambda texts: [len(text) for text in texts], **LONG)
    assert (result.stopped, len(result.steps)) == ("out of time", num_steps)
    assert machine.time <= end
    assert_complete(result)


def test_loading_counts_and_is_no_score() -> None:
    """Five minutes later all is as without them, of a limit that is five minutes longer."""
    machine = Machine(time=300.0)
    late, early = machine.run((300 + 1490) / 60, **LONG), Machine().run(1490 / 60, **LONG)
    assert late.steps == early.steps
    assert late.finalists == early.finalists
    assert machine.time <= 300 + 1490


def test_the_least_of_finals_may_take_more_than_half() -> None:
    """Two prompts on the development rows and two tests, behind one step: all but 10 s."""
    machine = Machine()
    end = 10 + MARGIN * (40 + 2 * 110 + 2 * 220)
    result = machine.run((end + 1e-6) / 60, **LONG)
    assert (result.stopped, len(result.steps)) == ("out of time", 1)
    assert machine.time <= end
    assert_complete(result)
    assert Machine().run((end - 1e-6) / 60, **LONG).steps == ()


@pytest.mark.parametrize("minutes", [0.001, 0.3])
@pytest.mark.parametrize("num_test", [20, 0])
def test_no_time_for_a_step(minutes: float, num_test: int) -> None:
    machine = Machine(sizes={"train": 5, "dev": 10, "test": num_test})
    result = machine.run(minutes, **STEPS)
    assert (result.stopped, result.steps) == ("out of time", ())
    assert result.best == result.baseline
    assert result.best.dev is not None
    assert (result.best.test is not None) is bool(num_test)
    assert result.baseline.train is None
    assert result.notes[1] == "no time was left to evaluate the initial prompt on the training rows"
    told = machine.told.kept
    assert sum("cannot be kept" in line for line in told) == 1
    assert not any("is over before the first score" in line for line in told)
    assert result.notes[2].startswith("the run took ")
    assert result.notes[2].endswith(" more than minutes allows")


def test_time_that_is_over_before_the_first_score_is_told_then() -> None:
    machine = Machine(time=100.0)
    machine.run(1.0, **STEPS)
    assert machine.told.kept[0].startswith("minutes=1 is over before the first score")


def test_finals_that_take_longer_than_was_thought_are_of_fewer_prompts() -> None:
    """By hand: after 4 steps the machine takes 1.4 times as long, so that 154 s are a prompt's.

    At 284 s, behind the best prompt, there is room for another: 1.2 times 154, as much for the
    initial prompt, and 616 for two tests. At 438 s there is none.
    """
    machine = Machine()

    def slower(step: Step) -> None:
        if step.step == 3:
            machine.luck = lambda: 1.4

    end = 1414
    assert 284 + MARGIN * (154 + 154 + 616) < end < 438 + MARGIN * (154 + 154 + 616)
    result = machine.run(end / 60, slower, steps=4, num_finalists=4)
    assert (result.stopped, len(result.steps)) == ("all steps done", 4)
    measured = [finalist.dev is not None for finalist in result.finalists]
    assert measured == [True, True, False, False, True]
    assert result.finalists[-1] == result.baseline
    assert_complete(result)
    assert machine.time == pytest.approx(10 + 4 * 30 + 3 * 154 + 616)
    assert result.notes[1:] == (
        "no time was left to evaluate 2 of 5 prompts on the development rows and the initial "
        "prompt on the training rows",
    )


def test_rows_that_are_known_take_no_time_when_a_run_goes_on(tmp_path: Path) -> None:
    """Three finalists and the initial prompt: whatever was evaluated stays, with no time left."""
    given = {"steps": 4, "num_finalists": 3}
    with RunDirectory(tmp_path / "whole") as directory:
        directory.begin({}, [{"split": "train"}])
        whole = Machine().run(None, directory=directory, **given)
    assert len(whole.finalists) == 4
    assert whole.baseline.train is not None
    machine = Machine()
    with RunDirectory(tmp_path / "whole", resume=True) as directory:
        assert directory.saved is not None
        minutes = directory.saved.clock["seconds"] / 60
        again = machine.run(minutes, directory=directory, **given)
    assert again.finalists == whole.finalists
    assert machine.time == 0
    assert not any("no time was left" in note for note in again.notes)


def test_a_stop_that_was_given_is_kept_whatever_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with RunDirectory(tmp_path) as directory, monkeypatch.context() as patch:
        directory.begin({}, [{"split": "train"}])
        patch.setattr(Pace, "add_step", interrupted)
        result = Machine().run(None, lambda _: True, directory=directory, **STEPS)
    assert (result.stopped, len(result.steps)) == ("interrupted", 1)
    with RunDirectory(tmp_path, resume=True) as directory:
        again = Machine().run(None, pytest.fail, directory=directory, **STEPS)
    assert (again.stopped, len(again.steps)) == ("stopped by on_step", 1)
    assert_complete(again)


def test_few_minutes_more_are_shared_out_anew(tmp_path: Path) -> None:
    """Of time that is added half is for steps, though the finals took half of all there was."""
    with RunDirectory(tmp_path) as directory:
        directory.begin({"config": {"minutes": 20.0}}, [{"split": "train"}])
        first = Machine().run(20.0, directory=directory, **LONG)
    assert first.stopped == "out of time"
    with RunDirectory(tmp_path, resume=True) as directory:
        minutes = directory.saved.clock["seconds"] / 60 + 18  # type: ignore[union-attr]
        second = Machine().run(minutes, directory=directory, **LONG)
    assert len(second.steps) > len(first.steps)


def test_more_minutes_go_on_with_a_search_that_was_cut_off_in_its_finals(tmp_path: Path) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with RunDirectory(tmp_path) as directory:
        directory.begin({}, [{"split": "train"}])
        machine = Machine()
        machine.evaluate = interrupted  # type: ignore[assignment]
        cut_off = machine.run(30.0, directory=directory, **LONG)
    assert cut_off.stopped == "interrupted"
    for minutes, more in ((30.0, False), (60.0, True)):
        with RunDirectory(tmp_path, resume=True) as directory:
            result = Machine().run(minutes, directory=directory, **LONG)
        assert result.stopped == "out of time"
        assert (len(result.steps) > len(cut_off.steps)) == more
        assert_complete(result)


@pytest.mark.parametrize(("seconds", "third"), [(55 + 440, True), (55 + 439, False)])
def test_rows_that_are_left_take_the_time_of_theirs_alone(
    tmp_path: Path, seconds: float, third: bool
) -> None:
    """By hand: of the third finalist two rows are left, which may take as long as five scored."""
    given = {"steps": 4, "num_finalists": 3}
    with RunDirectory(tmp_path) as directory:
        directory.begin({}, [{"split": "train"}])
        whole = Machine().run(None, directory=directory, **given)
    path, rows = tmp_path / "rows.jsonl", []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        of_third = row["prompt"] == whole.finalists[2].prompt
        if row["split"] == "dev" and not (of_third and row["row"] >= 8):
            rows.append(line + "\n")
    path.write_text("".join(rows))
    machine = Machine()
    with RunDirectory(tmp_path, resume=True) as directory:
        assert directory.saved is not None
        minutes = (directory.saved.clock["seconds"] + MARGIN * seconds + 1e-6) / 60
        result = machine.run(minutes, directory=directory, **given)
    assert [bool(f.dev) for f in result.finalists] == [True, True, third, True]
    assert_complete(result)
    assert result.baseline.train is None
    assert machine.time == pytest.approx(22 * third + 440)


def test_a_callback_takes_time_too() -> None:
    """Ten minutes of each step: by it the next step is judged."""
    machine = Machine()

    def wait(step: Step) -> None:
        machine.time += 600

    end = 10 + 630 + MARGIN * (630 + 5 * 110 + 55 + 2 * 220)
    result = machine.run((end - 1) / 60, wait, **STEPS)
    assert (result.stopped, len(result.steps)) == ("out of time", 1)


@pytest.mark.parametrize(
    ("on_step", "stopped"),
    [(lambda step: step.step == 1, "stopped by on_step"), (None, "all steps done")],
)
def test_a_search_that_ends_of_itself_is_not_out_of_time(on_step: object, stopped: str) -> None:
    """Though there would be no time for another step."""
    machine = Machine()

    def late(step: Step) -> bool:
        machine.time += 10_000 * (step.step == 1)
        return bool(callable(on_step) and on_step(step))

    result = machine.run(60, late, steps=2, num_finalists=4)
    assert (result.stopped, len(result.steps)) == (stopped, 2)
    assert_complete(result)


@given(
    limit=st.floats(0.001, 60.0),
    sizes=st.fixed_dictionaries(
        {"train": st.integers(2, 9), "dev": st.integers(1, 30), "test": st.integers(0, 30)}
    ),
    step=st.floats(0.0, 40.0),
    settings=st.fixed_dictionaries(
        {"steps": st.integers(0, 15), "num_finalists": st.integers(1, 6)}
    ),
    luck=st.randoms(use_true_random=False),
)
def test_the_limit_is_kept_whenever_the_estimates_are_right(
    limit: float, sizes: dict[str, int], step: float, settings: dict[str, int], luck: object
) -> None:
    """Work takes its true seconds, or less down to the margin; so its estimates allow for them.

    What is done in any case must fit in: the score, and one prompt on the other rows.
    """

    def drawn() -> float:
        return luck.uniform(1 / MARGIN, 1.0)  # type: ignore[attr-defined, no-any-return]

    machine = Machine(sizes=sizes, step=step, luck=drawn)
    result = machine.run(limit, **settings)
    assert_complete(result, bool(sizes["test"]))
    if 60 * limit >= machine.score + machine.seconds_of("dev") + machine.seconds_of("test"):
        assert machine.time <= 60 * limit
    else:
        assert result.steps == ()
        assert len(machine.evaluated) <= 2
    expected = "all steps done" if len(result.steps) == settings["steps"] else "out of time"
    assert result.stopped == expected


def test_of_several_ranks_the_first_ones_clock_decides() -> None:
    """The others' clocks say that there is no time at all; all ranks come to the same."""
    alone = Machine().run(25, **LONG)

    def on(ranks: Ranks) -> tuple[Result, int]:
        machine = Machine(time=0.0 if ranks.is_first else 1e6)
        return machine.run(25, ranks=ranks, **LONG), len(machine.evaluated)

    (first, num_first), (second, num_second) = on_threads(2, on)
    assert first.stopped == second.stopped == "out of time"
    assert 0 < len(first.steps) == len(second.steps) == len(alone.steps) < 99
    assert first.finalists == second.finalists == alone.finalists
    assert num_first == num_second
