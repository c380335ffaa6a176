import io
import logging
import time
from typing import Any

import pytest
from rich.console import Console

from greater_fast import display
from greater_fast.nouns import Step, Trial


def step(**fields: Any) -> Step:
    values: dict[str, Any] = {
        "step": 1,
        "index": 2,
        "grows": False,
        "prompt": "Think well.",
        "prompt_ids": (1, 2),
        "objective": 0.31254,
        "error_rate": 0.25,
        "candidate_ids": (5, 6),
        "candidate_top_k": 10,
        "trials": (
            Trial(5, " well", -0.5, 0.31254, 0.25),
            Trial(6, " ", 0.25, None, None),
        ),
        "changed": True,
        "seconds": {"propose": 0.5, "select": 1.25},
    }
    return Step(**{**values, **fields})


def prompt_result(prompt: str, num_correct: int | None, ids: list[int]) -> dict[str, Any]:
    dev = {"accuracy": (num_correct or 0) / 4, "interval": [0.1, 0.9], "num_rows": 4}
    return {
        "prompt": prompt,
        "prompt_ids": ids,
        "objective": 0.5,
        "train_error_rate": 0.25,
        "dev": None if num_correct is None else {**dev, "num_correct": num_correct},
        "test": None,
    }


def result(best: dict[str, Any], baseline: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "best": best,
        "baseline": baseline,
        "finalists": [best, baseline] if best is not baseline else [baseline],
        "stopped": "all steps done",
        "num_steps": 7,
        "run_dir": "runs/a",
        "dev_comparison": None,
        "test_comparison": None,
        **fields,
    }


OLD, NEW = prompt_result("Think.", 1, [1]), prompt_result("Think well.", 3, [1, 2])


def rendered(table: Any) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal would show of the progress bar."""
    shown = io.StringIO()
    real = display.Console

    def console(stderr: bool) -> Console:
        assert stderr
        return real(file=shown, force_terminal=True, width=160)

    monkeypatch.setattr(display, "Console", console)
    return shown


def test_progress_shows_step_objective_prompt_and_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = terminal(monkeypatch)
    with display.progress(4) as on_step:
        logging.getLogger("greater_fast").info("scoring the initial prompt on %d rows", 9)
        time.sleep(0.3)  # the bar is drawn ten times a second
        on_step(step())
    text = shown.getvalue()
    assert "scoring the initial prompt on 9 rows" in text
    assert "objective 0.3125" in text
    assert "2/4" in text
    assert "Think well." in text
    assert ":" in text.rsplit("2/4", 1)[1]  # the time left


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with display.progress(4) as on_step:
        logging.getLogger("greater_fast").info("loading")
        on_step(step())
    assert capsys.readouterr() == ("", "")


def test_progress_leaves_logging_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("greater_fast")
    before = (log.level, list(log.filters))
    with pytest.raises(RuntimeError, match="broken"), display.progress(0):
        raise RuntimeError("broken")
    assert (log.level, list(log.filters)) == before


def test_long_prompts_are_shortened() -> None:
    assert display.shortened("a" * 60) == "a" * 60
    assert display.shortened("a" * 61) == "a" * 57 + "..."


def test_steps_table() -> None:
    steps = [
        step().to_dict(),
        step(step=2, grows=True, changed=False, trials=(), objective=0.2).to_dict(),
    ]
    text = rendered(display.steps_table(steps))
    first, second, third = [line for line in text.splitlines() if "│" in line]
    assert [part.strip() for part in first.split("│")[1:-1]] == [
        "1",
        "2",
        "0.3125",
        "25.0%",
        "'well' -0.500 -> 0.3125",
        "Think well.",
        "1.8",
    ]
    assert "' ' +0.250 -> pruned" in second
    assert "2+" in third
    assert "no candidates" in third
    assert "unchanged" in third


def test_finalists_table() -> None:
    text = rendered(display.finalists_table(result(NEW, OLD)))
    best, initial = [line for line in text.splitlines() if "│" in line]
    assert "best" in best
    assert "75.0%" in best
    assert "10.0% to 90.0%" in best
    assert "initial" in initial
    text = rendered(display.finalists_table(result(OLD, OLD)))
    assert "best, initial" in text
    text = rendered(display.finalists_table(result(prompt_result("New.", None, [3]), OLD)))
    assert " - " in text


def test_outcome_of_a_gain() -> None:
    comparison = {"num_only_first": 2, "num_only_second": 0, "p_value": 0.5}
    lines = display.outcome(result(NEW, OLD, dev_comparison=comparison))
    assert lines == [
        "stopped: all steps done (7 steps)",
        "initial prompt: Think.",
        "  dev accuracy 25.0% of 4 rows (95% interval 10.0% to 90.0%)",
        "best prompt: Think well.",
        "  dev accuracy 75.0% of 4 rows (95% interval 10.0% to 90.0%)",
        "dev rows right with only the best prompt: 2, only the initial: 0 (McNemar p = 0.500)",
        "run directory: runs/a",
    ]


def test_outcome_is_honest_when_nothing_was_gained() -> None:
    comparison = {"num_only_first": 0, "num_only_second": 0, "p_value": 1.0}
    lines = display.outcome(result(OLD, OLD, dev_comparison=comparison))
    assert "nothing was gained: the initial prompt is still the best" in lines
    assert not any("only the best" in line for line in lines)
    same = prompt_result("Think hard.", 1, [2])
    assert "nothing was gained on the development rows" in display.outcome(result(same, OLD))


def test_outcome_of_an_interrupted_run() -> None:
    best, baseline = prompt_result("New.", None, [3]), prompt_result("Old.", None, [4])
    lines = display.outcome(result(best, baseline, stopped="interrupted"))
    assert "stopped: interrupted (7 steps)" in lines
    assert "not measured on the development rows: the run was interrupted before" in lines
