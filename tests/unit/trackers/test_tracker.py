"""What all trackers have in common: they follow a run, and never harm it."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from greater_fast import optimize
from greater_fast.model.lm import LM
from greater_fast.runs.directory import read_run
from greater_fast.search.nouns import Step
from greater_fast.trackers import TRACKERS, make_tracker
from greater_fast.trackers.tracker import Tracker
from tests.tiny import PROMPT

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")


class Recorder(Tracker):
    """Keeps what it is told; fails at the call that is named."""

    name, package = "recorder", "json"

    def __init__(self, *given: Any, fails_at: str = "") -> None:
        super().__init__(*given)
        self.told: list[tuple[Any, ...]] = []
        self._fails_at = fails_at

    def _tell(self, *what: Any) -> None:
        self.told.append(what)
        if what[0] == self._fails_at:
            raise OSError(28, "No space\x1b left")

    def open(self, run_dir: Path, settings: Mapping[str, Any]) -> None:
        self._tell("open", run_dir, dict(settings))

    def show(self, number: int, figures: Mapping[str, float], prompt: str) -> None:
        self._tell("show", number, dict(figures), prompt)

    def close(self, outcome: Mapping[str, float | str] | None) -> None:
        self._tell("close", outcome)


def search(lm: LM, rows: Any, settings: Any, tmp_path: Path, on_step: Any) -> Any:
    return optimize(lm, rows, prompt=PROMPT, config=settings, run_dir=tmp_path, on_step=on_step)


def test_a_run_is_followed_from_begin_to_end(
    lm: LM, rows: Any, settings: Any, tmp_path: Path
) -> None:
    tracker = Recorder()
    result = search(lm, rows, settings, tmp_path, tracker)
    kinds = [told[0] for told in tracker.told]
    assert kinds == ["open", "show", "show", "close"]
    _, folder, shown = tracker.told[0]
    assert folder == tmp_path
    assert shown["max_new_tokens"] == settings["max_new_tokens"]
    assert shown["prompt"] == PROMPT
    steps = read_run(tmp_path)["steps"]
    for (_, number, figures, prompt), step in zip(tracker.told[1:3], steps, strict=True):
        assert number == step["step"] + 1
        assert prompt == step["prompt"]
        tried = [t["objective"] for t in step["trials"] if t["objective"] is not None]
        expected = {
            "objective": step["objective"],
            "error_rate": step["error_rate"],
            "changed": float(step["changed"]),
            "prompt_tokens": len(step["prompt_ids"]),
            "generated_tokens": step["num_generated_tokens"],
            "peak_memory_bytes": step["peak_memory_bytes"],
            **({"best_candidate": min(tried)} if tried else {}),
            **{f"seconds/{name}": value for name, value in step["seconds"].items()},
        }
        assert figures == expected
    (outcome,) = tracker.told[3][1:]
    assert outcome["dev_accuracy/initial"] == result.baseline.dev_accuracy
    assert outcome["dev_accuracy/best"] == result.dev_accuracy
    assert outcome["dev_gain"] == result.dev_comparison.difference
    assert outcome["summary"] == result.summary


@pytest.mark.parametrize("fails_at", ["open", "show", "close"])
def test_a_tracker_that_fails_is_told_of_once_and_changes_nothing(
    lm: LM, rows: Any, settings: Any, tmp_path: Path, fails_at: str
) -> None:
    plain = search(lm, rows, settings, tmp_path / "plain", None)
    tracker, own = Recorder(fails_at=fails_at), []
    chained = Recorder(lambda step: own.append(step))
    tracker._on_step = chained
    with pytest.warns(
        RuntimeWarning, match="recorder shows no more of this run .*No space"
    ) as told:
        result = search(lm, rows, settings, tmp_path / "tracked", tracker)
    ours = [str(w.message) for w in told if "recorder" in str(w.message)]
    assert len(ours) == 1
    assert "\x1b" not in ours[0]
    assert [told[0] for told in tracker.told].count(fails_at) == 1
    assert result.best == plain.best
    assert [s.prompt_ids for s in result.steps] == [s.prompt_ids for s in plain.steps]
    # what stands behind it is told all the same
    assert [told[0] for told in chained.told] == ["open", "show", "show", "close"]
    assert tuple(own) == result.steps


def test_an_on_step_of_ones_own_ends_the_search(
    lm: LM, rows: Any, settings: Any, tmp_path: Path
) -> None:
    tracker = Recorder(lambda step: True)
    assert len(search(lm, rows, settings, tmp_path, tracker).steps) == 1
    assert [told[0] for told in tracker.told] == ["open", "show", "close"]


def test_what_an_on_step_raises_ends_the_run_and_the_tracking(
    lm: LM, rows: Any, settings: Any, tmp_path: Path
) -> None:
    def fail(step: Step) -> None:
        raise LookupError("mine")

    tracker = Recorder(fail)
    with pytest.raises(LookupError, match="mine"):
        search(lm, rows, settings, tmp_path, tracker)
    assert tracker.told[-1] == ("close", None)


def test_ctrl_c_while_the_outcome_is_shown_leaves_the_result(
    lm: LM, rows: Any, settings: Any, tmp_path: Path
) -> None:
    class Stuck(Recorder):
        def close(self, outcome: Mapping[str, float | str] | None) -> None:
            raise KeyboardInterrupt

    with pytest.warns(RuntimeWarning, match="interrupted"):
        result = search(lm, rows, settings, tmp_path, Stuck())
    assert result.prompt == read_run(tmp_path)["result"]["prompt"]


@pytest.mark.parametrize("name", sorted(TRACKERS))
def test_what_is_not_installed_is_named_by_its_extra(
    monkeypatch: pytest.MonkeyPatch, command: Any, data: Path, tmp_path: Path, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"pip install 'greater-fast\[{name}\]'"):
        make_tracker(name)
    done = command("optimize", "--model", "m", "--train", data, "--log", name)
    assert done.status == 2
    assert f"--log {name}: {name} is not installed" in done.err
    assert f"greater-fast[{name}]" in done.err


def test_texts_are_shown_fit_to_be_seen(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"model": "a\\u001b[2J", "config": {"x": ["\\u202e"]}}')
    tracker = Recorder()
    tracker.begin(tmp_path)
    assert tracker.told == [("open", tmp_path, {"x": ["\\u202e"], "model": "a\\u001b[2J"})]


def test_a_run_without_its_file_is_followed_all_the_same(tmp_path: Path) -> None:
    tracker = Recorder()
    tracker.begin(tmp_path)
    assert tracker.told == [("open", tmp_path, {})]
