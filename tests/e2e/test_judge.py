"""A judge of one's own chooses the prompt of a run, from the call to its files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from greater_fast import Result, optimize, resume
from greater_fast.model.lm import LM
from greater_fast.report import write_report
from greater_fast.runs.directory import read_run
from tests.tiny import PROMPT

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")


class Second:
    """Gives the second of the prompts the most; keeps what it was asked."""

    __name__ = "second"

    def __init__(self, error: BaseException | None = None) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.error = error

    def __call__(self, prompts: Sequence[str]) -> list[float]:
        self.asked.append(tuple(prompts))
        if self.error is not None:
            raise self.error
        return [1.5 - abs(place - 1) for place in range(len(prompts))]


@pytest.fixture
def given(rows: list[Any], settings: dict[str, Any], model_folder: Path) -> dict[str, Any]:
    """What `optimize` is given in each of these tests."""
    config = {**settings, "num_finalists": 3, "objective": "loss"}
    return {
        "model": str(model_folder),
        "train": rows[:8],
        "test": rows[8:],
        "prompt": PROMPT,
        "config": config,
        "progress": False,
    }


def texts(result: Result) -> list[str]:
    return [finalist.prompt for finalist in result.finalists]


def test_the_judge_chooses(given: dict[str, Any], tmp_path: Path) -> None:
    plain = optimize(**given, run_dir=tmp_path / "plain")
    assert len(texts(plain)) > 2
    judge = Second()
    result = optimize(**given, judge=judge, run_dir=tmp_path / "judged")
    assert judge.asked == [tuple(texts(plain))]
    assert texts(result) == texts(plain)
    values = [1.5 - abs(n - 1) for n in range(len(texts(plain)))]
    assert [f.judged for f in result.finalists] == values
    assert result.best == result.finalists[1] != result.baseline
    assert plain.prompt != result.prompt
    # Only the chosen and the initial prompt are measured.
    measured = {f.prompt for f in result.finalists if f.dev is not None}
    assert measured == {result.prompt, PROMPT}
    assert {f.prompt for f in result.finalists if f.test is not None} == measured
    assert "the prompt is chosen by: second" in result.notes
    run = read_run(tmp_path / "judged")
    assert run["run"]["judge"] == "second"
    assert run["result"]["best"]["judged"] == 1.5
    assert read_run(tmp_path / "plain")["result"]["best"]["judged"] is None


def test_of_equals_the_initial_prompt_is_kept(given: dict[str, Any], tmp_path: Path) -> None:
    result = optimize(**given, judge=lambda prompts: [1] * len(prompts), run_dir=tmp_path / "run")
    assert result.prompt == PROMPT
    assert len(texts(result)) > 1
    assert result.summary.startswith("Nothing was gained: the initial prompt is still the best")
    best = max(f.objective for f in result.finalists)
    found = optimize(
        **given,
        judge=lambda prompts: [-float(prompt == PROMPT) for prompt in prompts],
        run_dir=tmp_path / "other",
    )
    assert found.best == found.finalists[0]
    assert found.best.objective < best


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0], r"judge: got \[1.0\], expected \d finite numbers"),
        ([float("nan")] * 9, r"judge: got \[nan, .*\], expected \d finite numbers"),
        (["good"] * 9, r"judge: got \['good', .*\], expected a number for each prompt"),
        (None, "judge: got None, expected a number for each prompt"),
    ],
)
def test_what_no_judge_may_give(
    given: dict[str, Any], tmp_path: Path, values: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        optimize(**given, judge=lambda p: values and values[: len(p)], run_dir=tmp_path / "run")
    assert any("the best prompt until then" in note for note in caught.value.__notes__)
    result = read_run(tmp_path / "run")["result"]
    assert result["stopped"].startswith("failed: ValueError: judge: got")
    assert [f["judged"] for f in result["finalists"]] == [None] * len(result["finalists"])


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ("best", "judge: got 'best', expected a function of the texts of prompts"),
        (lambda one, two: [], r"judge: got one that takes \(one, two\), expected a function"),
    ],
)
def test_what_is_no_judge(given: dict[str, Any], tmp_path: Path, judge: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optimize(**given, judge=judge, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("error", [OSError("no judge"), KeyboardInterrupt()])
def test_what_it_raises_ends_the_run_which_goes_on(
    given: dict[str, Any], tmp_path: Path, error: BaseException
) -> None:
    """The finals alone are left to do; what was judged then is not judged again."""
    whole = optimize(**given, judge=Second(), run_dir=tmp_path / "whole")
    run_dir = tmp_path / "run"
    if isinstance(error, OSError):
        with pytest.raises(OSError, match="no judge"):
            optimize(**given, judge=Second(error), run_dir=run_dir)
    else:
        assert optimize(**given, judge=Second(error), run_dir=run_dir).stopped == "interrupted"
    ended = read_run(run_dir)
    assert len(ended["steps"]) == given["config"]["steps"]
    assert ended["result"]["best"]["dev"] is None
    judge = Second()
    found = resume(run_dir, judge=judge, progress=False)
    assert len(judge.asked) == 1
    assert found.finalists == whole.finalists
    again = Second()
    assert resume(run_dir, judge=again, progress=False).finalists == whole.finalists
    assert again.asked == []
    more = Second()
    longer = resume(run_dir, steps=given["config"]["steps"] + 3, judge=more, progress=False)
    assert more.asked == [tuple(texts(longer))]
    assert texts(longer) != texts(whole)


def test_a_judge_is_asked_for_again(given: dict[str, Any], tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    optimize(**given, judge=Second(), run_dir=run_dir)
    with pytest.raises(
        ValueError, match="judge: the run was begun with the function 'second', whi"
    ):
        resume(run_dir, progress=False)
    with pytest.raises(ValueError, match="judge: got 'sorted', the run was begun with 'second'"):
        optimize(**given, judge=sorted, run_dir=run_dir, resume=True)


def test_it_is_told_where_another_judge_of_the_same_name_is_not_asked(
    given: dict[str, Any], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    first = optimize(**given, judge=lambda prompts: [*range(len(prompts))], run_dir=run_dir)
    told = "the judge was not asked: what one of its name said of these prompts in an earlier"
    assert not any(told in note for note in first.notes)
    other = resume(run_dir, judge=lambda prompts: [0] * len(prompts), progress=False)
    assert other.finalists == first.finalists
    assert sum(told in note for note in other.notes) == 1
    assert sum(told in note for note in read_run(run_dir)["result"]["notes"]) == 1
    more = given["config"]["steps"] + 3
    longer = resume(run_dir, steps=more, judge=lambda prompts: [0] * len(prompts), progress=False)
    assert longer.prompt == PROMPT
    assert not any(told in note for note in longer.notes)


def test_what_was_judged_is_kept_while_the_finals_are_not_done(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:

        def fail(*given: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr("greater_fast.runs.sitting.finals.evaluate_models", fail)
        cut = optimize(**given, judge=Second(), run_dir=run_dir)
    assert cut.stopped == "interrupted"
    assert cut.best.judged == max(f.judged or 0 for f in cut.finalists) > 0.5
    assert cut.best.dev is None
    judge = Second()
    found = resume(run_dir, judge=judge, progress=False)
    assert judge.asked == []
    assert found.best.prompt == cut.best.prompt
    assert found.best.dev is not None


def test_it_is_shown(
    given: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from greater_fast.cli import main as cli

    del given["test"]
    result = optimize(**given, judge=Second(), run_dir=tmp_path / "run")
    best = f"{result.best.judged:g}"
    assert "development rows, while a judge chose it, the new prompt is right on" in result.summary
    assert "<th>judged</th>" in result._repr_html_()
    assert f"<td>{best}</td>" in result._repr_html_()
    capsys.readouterr()
    assert cli.main(["show", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    assert "prompts that were judged" in shown
    assert f"  judged {best}\n" in shown
    assert f"  judged {result.baseline.judged:g}\n" in shown
    assert "optimistic" not in shown
    assert "the run ended early" not in shown
    write_report([tmp_path / "run"], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert f'<td data-label="Judged" class="n">{result.best.judged:.4g}' in page
    assert "so what it gains there is optimistic" not in page
    assert "rows it was chosen by" not in page


def test_it_is_asked_of_loaded_models_too(lm: LM, given: dict[str, Any], tmp_path: Path) -> None:
    """Of several models the one list of prompts is judged."""
    judge = Second()
    found = optimize(**{**given, "model": [lm, lm]}, judge=judge, run_dir=tmp_path / "run")
    assert len(judge.asked) == 1
    assert json.loads((tmp_path / "run" / "state.json").read_text())["judged"] == {
        "prompts": texts(found),
        "values": [f.judged for f in found.finalists],
    }
