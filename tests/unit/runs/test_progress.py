"""What is told while a run goes on: a bar in a terminal, lines elsewhere, nothing on request."""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import are_progress_bars_disabled
from rich.console import Console
from transformers.utils import logging as logging_of_transformers

from greater_fast import evaluate
from greater_fast.model.lm import load_lm
from greater_fast.runs import progress
from greater_fast.runs.progress import shortened, told
from greater_fast.search.nouns import Step, Trial
from tests.waiting import until

BRACKETS = (
    "Use [b] and end with [/INST] please.",
    "answer in the form [yes] or [no].",
    "Say :smile: and [bold red]stop[/].",
)


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
        "trials": (),
        "changed": True,
    }
    return Step(**{**values, **fields})


def terminal(monkeypatch: pytest.MonkeyPatch, width: int = 160) -> io.StringIO:
    """What a terminal would show of the progress."""
    shown = io.StringIO()

    def console(file: Any) -> Console:
        assert file._stream is sys.stderr
        return Console(file=shown, force_terminal=True, width=width)

    monkeypatch.setattr(progress, "Console", console)
    return shown


def test_a_terminal_sees_step_objective_prompt_and_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = terminal(monkeypatch)
    with told(True, num_steps=4) as teller:
        teller.say("scoring the initial prompt on 9 rows")
        until(lambda: "on 9 rows" in shown.getvalue(), "the bar is drawn")
        teller.step(step())
    text = shown.getvalue()
    assert "scoring the initial prompt on 9 rows" in text
    assert "objective 0.3125" in text
    assert "2/4" in text
    assert "Think well." in text
    assert ":" in text.rsplit("2/4", 1)[1]  # the time left


def test_rows_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = terminal(monkeypatch)
    with told(True, num_rows=7) as teller:
        teller.say("evaluating a prompt on 7 rows")
        for _ in range(3):
            teller.row()
    assert "evaluating a prompt on 7 rows" in shown.getvalue()
    assert "3/7" in shown.getvalue()


def test_tables_stay_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = terminal(monkeypatch, width=40)
    long = "[b]weights[/] " + 8 * "1.00 GiB "
    with told(True, num_steps=4) as teller:
        teller.say("memory plan", f"{long}\nlogits 2 GiB")
        teller.say("loading")
    assert f"{long}\nlogits 2 GiB\n" in shown.getvalue()


@pytest.mark.parametrize("prompt", BRACKETS)
def test_brackets_are_shown_as_they_are(monkeypatch: pytest.MonkeyPatch, prompt: str) -> None:
    shown = terminal(monkeypatch)
    with told(True, num_steps=4) as teller:
        teller.say(prompt)
        teller.step(step(prompt=prompt))
    assert prompt in shown.getvalue()
    shown = terminal(monkeypatch, width=80)
    with told(True) as teller:
        teller.say(prompt)
    assert prompt in shown.getvalue()
    assert "0/" not in shown.getvalue()


def test_elsewhere_all_that_begins_and_every_step_is_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with told(True, num_steps=4) as teller:
        teller.say("memory plan: it fits", "weights 1 GiB")
        teller.step(step())
        teller.step(step(step=2, changed=False, prompt="a\n\x1b[31mb"))
        tried = (Trial(5, " well", -0.5, None, None, 12), Trial(6, " so", 0.5, None, None))
        teller.step(step(step=3, trials=tried))
        teller.row()
        teller.keep("told once more in the result")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "greater-fast: memory plan: it fits",
        "greater-fast: step 2 of 4: objective 0.3125, 'Think well.'",
        "greater-fast: step 3 of 4: objective 0.3125, unchanged 'a \\x1b[31mb'",
        "greater-fast: step 4 of 4: objective 0.3125, 1 dropped, 'Think well.'",
        "greater-fast: told once more in the result",
    ]


def test_lines_that_stay(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with told(True, num_steps=4) as teller:
        teller.keep("about 3 h \x1b[31m")
    assert capsys.readouterr().err == "greater-fast: about 3 h \\u001b[31m\n"
    shown = terminal(monkeypatch, width=40)
    long = "to go: [b]about 3 h[/] " + 8 * "and more "
    with told(True, num_steps=4) as teller:
        teller.keep(long)
        teller.say("loading")
    assert f"{long}\n" in shown.getvalue()


def test_nothing_is_shown_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = terminal(monkeypatch)
    with told(False, num_steps=4) as teller:
        teller.say("loading", "a table")
        teller.keep("about 3 h")
        teller.step(step())
        teller.row()
    assert (shown.getvalue(), capsys.readouterr()) == ("", ("", ""))


def test_nothing_in_progress_steers_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = terminal(monkeypatch)
    with told(True, num_steps=4) as teller:
        teller.step(step(prompt="c\x9b2J"))
        teller.say("loading \x1b]0;a", "b\u202e")
    text = shown.getvalue()
    for escaped in ("loading \\u001b]0;a", "b\\u202e", "c\\u009b2J"):
        assert escaped in text
    assert "\x1b]0" not in text


@pytest.mark.parametrize("progress_shown", [True, False])
def test_the_log_of_a_program_is_its_own(
    caplog: pytest.LogCaptureFixture, progress_shown: bool
) -> None:
    log = logging.getLogger("greater_fast")
    with caplog.at_level(logging.INFO, "greater_fast"):
        before = (log.level, list(log.filters), list(log.handlers))
        with told(progress_shown, num_steps=4) as teller:
            teller.say("loading \x1b[31m")
            log.warning("of others")
            assert (log.level, list(log.filters), list(log.handlers)) == before
    assert caplog.messages == ["loading \\u001b[31m", "of others"]


def test_what_a_program_prints_to_a_file_goes_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = terminal(monkeypatch)
    with told(True, num_steps=4):
        print("my own line")
    assert capsys.readouterr().out == "my own line\n"
    assert "my own line" not in shown.getvalue()


def test_a_closed_standard_error_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    with told(True, num_steps=4) as teller:
        teller.say("loading")
        teller.step(step())


def test_long_prompts_are_shortened_to_one_line() -> None:
    assert shortened("a" * 60) == "a" * 60
    assert shortened("a" * 61) == "a" * 57 + "..."
    assert shortened("Think.\n\nAnswer.") == "Think. Answer."


def test_a_terminal_that_is_closed_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on: whatever it tells, and the bar's own refreshing, fails in silence."""
    seen, shown = os.openpty()
    stream = os.fdopen(shown, "w")
    monkeypatch.setattr(sys, "stderr", stream)
    with told(True, num_steps=3) as teller:
        teller.say("loading")
        os.close(seen)
        with pytest.raises(OSError, match="Input/output error"):
            os.write(shown, b"x")
        teller.keep("a line that stays")
        teller.step(step())
        teller.say("memory", "a table")
    with contextlib.suppress(OSError):
        stream.close()


@pytest.fixture
def bars_of_others() -> Iterator[None]:
    """They are shown, as they are where no command line has run in this process."""
    was_enabled = logging_of_transformers.is_progress_bar_enabled()
    logging_of_transformers.enable_progress_bar()
    yield
    if not was_enabled:
        logging_of_transformers.disable_progress_bar()


def test_no_bar_of_others_is_shown_without_progress(
    model_folder: Path,
    rows: list[Any],
    bars_of_others: None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    capfd.readouterr()
    limits = {"max_new_tokens": 2, "max_prompt_tokens": 40}
    before = logging_of_transformers._tqdm_hook, are_progress_bars_disabled()
    evaluate(str(model_folder), rows[:1], prompt="Think well.", config=limits, progress=False)
    assert capfd.readouterr() == ("", "")
    with told(False):
        load_lm(str(model_folder))
        assert are_progress_bars_disabled()
    assert capfd.readouterr() == ("", "")
    assert (logging_of_transformers._tqdm_hook, are_progress_bars_disabled()) == before
    load_lm(str(model_folder))
    assert "Loading weights" in capfd.readouterr().err  # else nothing was shown that could be
