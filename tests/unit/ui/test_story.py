"""What the page says of a run's folder, whole or not."""

import json
from pathlib import Path

import pytest

from greater_fast.ui.story import tell

pytestmark = pytest.mark.ui
STEP = {
    "step": 0,
    "prompt": "Think twice.",
    "objective": 0.5,
    "error_rate": 0.25,
    "trials": [{"token": " twice"}],
    "changed": True,
}

FIGURES = ("num_wrong", "num_rows", "prompt_nll", "answer_loss")  # of what was scored


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that has begun, with one step."""
    begun = {"prompt": "Think.", "config": {"steps": 3}}
    (tmp_path / "run.json").write_text(json.dumps(begun))
    (tmp_path / "steps.jsonl").write_text(json.dumps(STEP) + "\n")
    (tmp_path / "log.txt").write_text("greater-fast: loading\n/lib/x.py: Warning\n")
    return tmp_path


def test_a_run_that_goes_on(run: Path) -> None:
    story = tell(run, goes_on=True)
    assert story.headline == "runs, 1 of 3 steps done: loading"
    assert (story.initial, story.prompt) == ("Think.", "Think twice.")
    assert [(s["step"], s["objective"], s["error_rate"]) for s in story.steps] == [(0, 0.5, 0.25)]
    assert not story.finished


def test_a_run_that_has_ended(run: Path) -> None:
    result = {"prompt": "Best.", "summary": "Gained.", "stopped": "all steps done", "notes": ["n"]}
    (run / "result.json").write_text(json.dumps(result))
    story = tell(run, goes_on=False)
    assert story.headline == "Gained. Ended: all steps done."
    assert (story.prompt, story.notes, story.finished) == ("Best.", ("n",), True)
    assert not tell(run, goes_on=True).finished  # it goes on with more steps


def test_a_run_that_was_killed_can_go_on(run: Path) -> None:
    (run / "log.txt").write_text("greater-fast: the process was ended by SIGKILL\n")
    story = tell(run, goes_on=False)
    assert "can go on" in story.headline
    assert story.notes == ("the process was ended by SIGKILL",)


def test_why_a_run_without_a_result_failed_is_told_first(run: Path) -> None:
    (run / "log.txt").write_text("greater-fast: steps: got 50, the run was planned for 105\n")
    can = "ended after 1 steps, without a result: it can go on"
    story = tell(run, goes_on=False, has_failed=True)
    assert (story.headline, story.notes) == ("steps: got 50, the run was planned for 105", (can,))
    (run / "log.txt").unlink()  # of a run that was begun in a terminal
    (run / "traceback.txt").write_text("Traceback (most recent call last):\nMemoryError: 3 GiB\n")
    story = tell(run, goes_on=False)
    assert (story.headline, story.notes) == ("MemoryError: 3 GiB", (can,))


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_run_that_has_not_begun_says_what_its_process_says(tmp_path: Path, goes_on: bool) -> None:
    assert "process" in tell(tmp_path, goes_on).headline
    (tmp_path / "log.txt").write_text("Traceback (most recent\n  x\ngreater-fast: no such model\n")
    story = tell(tmp_path, goes_on)
    assert "no such model" in story.headline
    assert "Traceback" not in repr(story)


def test_a_refused_option_is_told_as_well(tmp_path: Path) -> None:
    usage = "usage: greater-fast resume [-h]\ngreater-fast resume: error: argument --steps: no\n"
    (tmp_path / "log.txt").write_text(usage)
    assert tell(tmp_path, goes_on=False).headline == "argument --steps: no"


def test_what_the_initial_prompt_came_to_is_known_from_the_start(run: Path, finished: Path) -> None:
    """Of 4 rows 3 are wrong; of a run that has ended its result says the same."""
    assert tell(run, goes_on=True).start is None
    tried = ((3, 4, 2.0, 0.5), (0, 4, 0.0, 0.0))
    scored = [{"objective": dict(zip(FIGURES, figures, strict=True))} for figures in tried]
    (run / "state.json").write_text(json.dumps({"scored": scored}))
    for objective, expected in (("loss", 0.5 + 0.1 * 2.0), ("error", 0.75 + 0.3 * 2.0)):
        weights = {"fluency_weight": 0.1, "error_fluency_weight": 0.3}
        begun = {"prompt": "Think.", "config": {"steps": 3, "objective": objective, **weights}}
        (run / "run.json").write_text(json.dumps(begun))
        start = tell(run, goes_on=True).start
        assert start == {"objective": pytest.approx(expected), "error_rate": 0.75}
    baseline = json.loads((finished / "result.json").read_text())["baseline"]
    figures = {"objective": baseline["objective"], "error_rate": baseline["train_error_rate"]}
    assert tell(finished, goes_on=False).start == figures


@pytest.mark.parametrize(
    "name", ["run.json", "steps.jsonl", "state.json", "result.json", "log.txt"]
)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]\n",
        b"\xff\n",
        b"{}\n",
        b'{"step": "x"}\n',
        b'{"scored": [{"objective": {}}]}',
        json.dumps({"scored": [{"objective": dict.fromkeys(FIGURES, 0)}]}).encode(),
    ],
)
def test_files_that_are_damaged_or_of_another_version_are_no_error(
    run: Path, name: str, content: bytes
) -> None:
    (run / name).write_bytes(content)
    for goes_on in (True, False):
        assert tell(run, goes_on).headline


def test_what_steers_a_terminal_or_a_reader_is_shown_as_escapes(run: Path) -> None:
    (run / "log.txt").write_text("greater-fast: a\x1b[31m\u202eb\n")
    assert "\x1b" not in tell(run, True).headline
    assert "\u202e" not in tell(run, True).headline
