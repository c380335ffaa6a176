import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from greater_fast.config import Config
from greater_fast.engine import Rollout
from greater_fast.runs.directory import RunDirectory
from greater_fast.runs.evaluation import RowRecord
from greater_fast.runs.saved.saved_run import SavedRun
from greater_fast.runs.timing.time_budget import OUT_OF_TIME
from greater_fast.search.nouns import UNCHANGED, Objective, Scored, Step, Trial
from greater_fast.search.state import LoopState, rollouts_of

RUN = {"model": "m", "versions": {"greater_fast": "0"}}
FILES = ("steps.jsonl", "rollouts.jsonl")


def scored(*ids: int) -> Scored:
    return Scored(ids, Objective(1, 2, 0.5, 0.1 + 0.2), (Rollout(ids, (-0.1,), (True,)),) * 2)


def step(number: int) -> Step:
    trial = Trial(4, " a", -0.5, None, None, 3)
    return Step(number, 0, False, "p", (1, 2), 0.1 + 0.2, 0.5, (4, 5), 10, (trial,), True)


def finished(folder: Path, num_steps: int) -> LoopState:
    """The files of a run that has finished so many steps."""
    state = LoopState(scored(0, 0))
    with RunDirectory(folder) as directory:
        directory.begin(RUN, [{"split": "train", "question": "q"}])
        directory.append_rollouts([rollouts_of(state.incumbent)])
        directory.write_state(state.to_dict())
        for number in range(num_steps):
            new = [scored(number, place) for place in (1, 2)]
            state.scored |= {found.prompt_ids: found for found in new}
            state.accept(new[1])
            directory.append_rollouts(list(map(rollouts_of, new)))
            directory.append_step(step(number).to_dict(), state.to_dict())
    return state


def read(folder: Path) -> SavedRun:
    saved = SavedRun.of(folder)
    assert saved is not None
    return saved


def test_what_was_finished_is_read(tmp_path: Path) -> None:
    state = finished(tmp_path, 3)
    saved = read(tmp_path)
    assert saved.run["model"] == "m"
    assert saved.examples == [{"split": "train", "question": "q"}]
    assert saved.state == state
    assert saved.steps == tuple(map(step, range(3)))
    assert (saved.rows, saved.ended) == ({}, None)


@pytest.mark.parametrize("num_bytes", [1, 5, 60, 400, 10_000])
@pytest.mark.parametrize("name", FILES)
def test_a_step_that_was_cut_off_at_any_byte(tmp_path: Path, name: str, num_bytes: int) -> None:
    """Its rollouts, then its line are written before the state: any part of them may be there."""
    state = finished(tmp_path / "two", 2)
    finished(tmp_path / "three", 3)
    names = FILES if name == "steps.jsonl" else ("rollouts.jsonl",)
    whole = {name: (tmp_path / "two" / name).read_bytes() for name in FILES}
    for other in names:
        longer = (tmp_path / "three" / other).read_bytes()
        end = len(whole[name]) + num_bytes if other == name else len(longer)
        (tmp_path / "two" / other).write_bytes(longer[:end])
    saved = read(tmp_path / "two")
    assert saved.state == state
    assert len(saved.steps) == 2
    assert {name: (tmp_path / "two" / name).read_bytes() for name in FILES} == whole


def test_a_clock_that_is_lost_says_what_the_steps_took(tmp_path: Path) -> None:
    finished(tmp_path, 2)
    timed = [replace(step(n), seconds={"select": 3.0 + n, "gradient": 1.5}) for n in range(2)]
    lines = "".join(json.dumps(of.to_dict()) + "\n" for of in timed)
    (tmp_path / "steps.jsonl").write_text(lines)
    assert read(tmp_path).clock == {"seconds": 10.0, "score_seconds": 3.5}
    (tmp_path / "clock.json").write_text('{"seconds": 70.5, "score_seconds": 2.5}')
    assert read(tmp_path).clock == {"seconds": 70.5, "score_seconds": 2.5}
    (tmp_path / "clock.json").write_text('{"seco')
    assert read(tmp_path).clock["seconds"] == 10.0


def test_before_the_initial_prompt_was_scored(tmp_path: Path) -> None:
    with RunDirectory(tmp_path) as directory:
        directory.begin(RUN, [{"split": "train"}])
        directory.append_rollouts([rollouts_of(scored(1))])
    saved = read(tmp_path)
    assert (saved.state, saved.steps) == (None, ())
    assert not (tmp_path / "rollouts.jsonl").exists()
    assert len((tmp_path / "rollouts.jsonl.before").read_text().splitlines()) == 1


@pytest.mark.parametrize("claim", [b"", b'{"claimed": "20', b'{"claimed": "now", "process": 1}\n'])
@pytest.mark.parametrize("resume", [False, True])
def test_a_claim_that_came_to_nothing(tmp_path: Path, claim: bytes, resume: bool) -> None:
    (tmp_path / "run.json").write_bytes(claim)
    assert SavedRun.of(tmp_path) is None
    with RunDirectory(tmp_path, resume=resume) as directory:
        with pytest.raises(ValueError, match="holds another run"):  # while it is held
            RunDirectory(tmp_path)
        directory.begin(RUN, [{"split": "dev"}])
    assert read(tmp_path).examples == [{"split": "dev"}]
    with pytest.raises(ValueError, match="holds another run"):
        RunDirectory(tmp_path)


@pytest.mark.parametrize("resume", [False, True])
def test_a_beginning_that_is_cut_off_twice(tmp_path: Path, resume: bool) -> None:
    """First between examples.jsonl and run.json, then before either: the folder can be had."""
    (tmp_path / "run.json").write_text('{"claimed": "now", "process": 1}\n')
    (tmp_path / "examples.jsonl").write_text("{}\n")
    with pytest.raises(KeyboardInterrupt), RunDirectory(tmp_path, resume=resume):
        raise KeyboardInterrupt
    with RunDirectory(tmp_path, resume=resume) as directory:
        directory.begin(RUN, [{"split": "dev"}])
    assert read(tmp_path).examples == [{"split": "dev"}]


def test_a_beginning_of_which_a_full_disk_took_the_small_file_alone(tmp_path: Path) -> None:
    with RunDirectory(tmp_path) as directory:
        directory.begin(RUN, [{"split": "train"}])
    (tmp_path / "examples.jsonl").unlink()
    with pytest.raises(ValueError, match=r"examples\.jsonl is not there, or empty"):
        RunDirectory(tmp_path, resume=True)


def test_a_state_that_is_lost_empties_no_logs(tmp_path: Path) -> None:
    finished(tmp_path, 2)
    (tmp_path / "state.json").unlink()
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"state\.json is not there, beside steps\.jsonl: put it"):
        RunDirectory(tmp_path, resume=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files
    (tmp_path / "steps.jsonl").unlink()
    for name in ("result.json", "earlier_result.json"):
        (tmp_path / name).write_text("{}\n")
        with pytest.raises(ValueError, match=rf"state\.json is not there, beside {name}"):
            SavedRun.of(tmp_path)
        (tmp_path / name).unlink()
    assert read(tmp_path).state is None


def test_a_run_json_that_is_lost_is_named(tmp_path: Path) -> None:
    finished(tmp_path, 1)
    (tmp_path / "run.json").unlink()
    for _ in range(2):  # the lock is not kept
        with pytest.raises(ValueError, match=r"without its run\.json, .*: put it back, or begin"):
            RunDirectory(tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"holds another run .*go on with that run \(resume\)"):
        RunDirectory(tmp_path)
    assert not (tmp_path / "run.json").exists()


def lose_a_line(path: Path) -> None:
    path.write_bytes(path.read_bytes().split(b"\n", 1)[1])


def damage_a_line(path: Path) -> None:
    path.write_bytes(b"{" + path.read_bytes())


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("name", "harm", "message"),
    [
        ("steps.jsonl", lose_a_line, r"steps\.jsonl has 1 of the 2 lines"),
        ("steps.jsonl", damage_a_line, "1 of 2 lines are damaged"),
        ("steps.jsonl", cut_short, r"steps\.jsonl has 1 of the 2 lines"),
        ("rollouts.jsonl", lose_a_line, r"rollouts\.jsonl has 4 of the 5 lines"),
        ("state.json", cut_short, r"state\.json cannot be read"),
        ("run.json", cut_short, r"run\.json cannot be read"),
        ("examples.jsonl", damage_a_line, "1 of 1 lines are damaged"),
        ("examples.jsonl", Path.unlink, r"examples\.jsonl is not there, or empty: put it back"),
        ("steps.jsonl", Path.unlink, r"steps\.jsonl has 0 of the 2 lines"),
    ],
)
def test_a_file_that_is_damaged_is_named(
    tmp_path: Path, name: str, harm: Callable[[Path], object], message: str
) -> None:
    finished(tmp_path, 2)
    harm(tmp_path / name)
    with pytest.raises(ValueError, match=f"cannot be gone on with: .*{message}"):
        SavedRun.of(tmp_path)


@pytest.mark.parametrize("num_steps", [None, 1])
def test_a_run_of_another_version(tmp_path: Path, num_steps: int | None) -> None:
    if num_steps is None:
        with RunDirectory(tmp_path) as directory:
            directory.begin(RUN, [])
    else:
        finished(tmp_path, num_steps)
    values = json.loads((tmp_path / "run.json").read_text())
    del values["format"]
    (tmp_path / "run.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"another version of greater_fast \(.*\) wrote its files"):
        SavedRun.of(tmp_path)


def row(number: int, **values: Any) -> dict[str, Any]:
    record = RowRecord(f"q{number}", "g", "p", True, "r", metric=None)
    of = {"split": "dev", "prompt": "think", "row": number, "num_steps": 2}
    return {**of, **record.to_dict(), **values}


def test_rows_that_were_evaluated(tmp_path: Path) -> None:
    finished(tmp_path, 2)
    lines = [
        row(0),
        row(2),
        row(0, predicted="another"),
        row(0, model="b", predicted="x"),
        row(1, split="test", num_steps=1),
    ]
    whole = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "rows.jsonl").write_text(whole + json.dumps(row(5))[:-3])
    saved = read(tmp_path)
    of_dev = saved.rows["dev", "think", ""]
    assert {number: record.predicted for number, record in of_dev.items()} == {0: "p", 2: "p"}
    assert saved.rows["dev", "think", "b"][0].predicted == "x"
    assert [saved.test_seen_before(n) for n in (1, 2, 3)] == [None, 1, 1]
    assert (tmp_path / "rows.jsonl").read_text() == whole


def test_a_damaged_row_is_evaluated_again(tmp_path: Path) -> None:
    finished(tmp_path, 0)
    other = {"split": "dev", "prompt": "think", "row": 3}
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(row(0))}\n{{\n{json.dumps(other)}\n")
    assert list(read(tmp_path).rows["dev", "think", ""]) == [0]


def test_why_the_search_ended_counts_while_no_steps_are_added(tmp_path: Path) -> None:
    state = finished(tmp_path, 2)
    with RunDirectory(tmp_path, resume=True) as directory:
        ended = {"why": "stopped by on_step", "steps": 7}
        directory.write_state({**state.to_dict(), "ended": ended})
    assert read(tmp_path).ended_before(Config(steps=7)) == "stopped by on_step"
    assert read(tmp_path).ended_before(Config(steps=8)) is None


def test_a_search_that_a_sweep_had_ended_goes_on_where_it_may(tmp_path: Path) -> None:
    state = finished(tmp_path, 2)
    with RunDirectory(tmp_path, resume=True) as directory:
        directory.write_state({**state.to_dict(), "ended": {"why": UNCHANGED, "steps": 7}})
    assert read(tmp_path).ended_before(Config(steps=7)) == UNCHANGED
    assert read(tmp_path).ended_before(Config(steps=7, stop_unchanged=False)) is None


@pytest.mark.parametrize(("minutes", "goes_on"), [(9.0, False), (8.0, False), (10.0, True)])
def test_a_search_that_ran_out_of_time_goes_on_with_more(
    tmp_path: Path, minutes: float, goes_on: bool
) -> None:
    state = finished(tmp_path, 2)
    with RunDirectory(tmp_path, resume=True) as directory:
        ended = {"why": OUT_OF_TIME, "steps": 7, "minutes": 9.0}
        directory.write_state({**state.to_dict(), "ended": ended})
    assert read(tmp_path).ended_before(Config(steps=7, minutes=minutes)) == (
        None if goes_on else OUT_OF_TIME
    )
    assert read(tmp_path).ended_before(Config(steps=7)) is None


def test_a_state_waits_for_the_lines_that_it_knows_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes no line, but takes the state, must not lose the line with a kill."""
    state = finished(tmp_path, 2)

    plain = Path.open

    def full(path: Path, mode: str = "r", *given: Any, **options: Any) -> Any:
        if "a" in mode:
            raise OSError(28, "No space left on device")
        return plain(path, mode, *given, **options)

    with RunDirectory(tmp_path, resume=True) as directory:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", full)
            with pytest.warns(RuntimeWarning, match="No space left"):
                directory.append_step(step(2).to_dict(), {**state.to_dict(), "step": 3})
        assert read(tmp_path).state == state
        directory.write_state({**state.to_dict(), "step": 3})
    assert [done.step for done in read(tmp_path).steps] == [0, 1, 2]
