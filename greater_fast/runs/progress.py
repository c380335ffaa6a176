"""What is being done, on standard error: a bar where somebody looks, else plain lines."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
from collections.abc import Iterator
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from greater_fast.model.bars import without_bars
from greater_fast.runs.visible import visible
from greater_fast.search.nouns import Step

_PROMPT_WIDTH = 60
_log = logging.getLogger("greater_fast")


class Teller:
    """Says what a run is doing: to the log, and nothing more."""

    def say(self, text: str, table: str = "") -> None:
        """What is done now, and a table that stays."""
        _log.info("%s", visible(f"{text}\n{table}" if table else text))

    def keep(self, text: str) -> None:
        """A line that stays."""
        _log.info("%s", visible(text))

    def step(self, step: Step) -> None:
        """A finished step."""

    def row(self) -> None:
        """A finished row of an evaluation."""


class _Lines(Teller):
    """A line for everything that begins, and for every step: for a file, which keeps them all."""

    def __init__(self, num_steps: int | None) -> None:
        self._num_steps = num_steps

    def say(self, text: str, table: str = "") -> None:
        super().say(text, table)
        _print(text)

    def keep(self, text: str) -> None:
        super().keep(text)
        _print(text)

    def step(self, step: Step) -> None:
        num_dropped = sum(trial.dropped_after is not None for trial in step.trials)
        _print(
            f"step {step.step + 1} of {self._num_steps}: objective {step.objective:.4f}, "
            f"{f'{num_dropped} dropped, ' if num_dropped else ''}"
            f"{'by the answer alone, ' if step.num_contrasted == 0 else ''}"
            f"{'' if step.changed else 'unchanged '}{shortened(step.prompt)!r}"
        )


class _Bar(Teller):
    """A line that is written over, in a terminal that may be closed before the run ends."""

    def __init__(self, bar: Progress, total: int | None) -> None:
        self._bar, self._num_done = bar, 0
        self._task = bar.add_task("starting", total=total or None, prompt="")

    def say(self, text: str, table: str = "") -> None:
        super().say(text, table)
        self._bar.update(self._task, description=visible(text)[:48])
        if table:
            self._show(table)

    def keep(self, text: str) -> None:
        super().keep(text)
        self._show(text)

    def step(self, step: Step) -> None:
        self._bar.update(
            self._task,
            completed=step.step + 1,
            description=f"objective {step.objective:.4f}",
            prompt=visible(shortened(step.prompt)),
        )

    def row(self) -> None:
        self._num_done += 1
        self._bar.update(self._task, completed=self._num_done)

    def _show(self, text: str) -> None:
        """A text that stays above the line."""
        self._bar.console.print(
            visible(text), markup=False, emoji=False, highlight=False, soft_wrap=True
        )


@contextlib.contextmanager
def told(
    progress: bool, num_steps: int | None = None, num_rows: int | None = None
) -> Iterator[Teller]:
    """Who is told what a run does: a bar in a terminal or a notebook, else lines; or the log alone.

    The bar counts steps, or rows.
    """
    if not progress:
        with without_bars():
            yield Teller()
        return
    console = Console(file=cast(IO[str], _Unfailing()))
    if not (console.is_terminal or _has_widgets(console)):
        yield _Lines(num_steps)
        return
    # What a program prints meanwhile appears above the bar; a file that it prints to is left alone.
    prints_here = console.is_jupyter or (sys.stdout is not None and sys.stdout.isatty())
    with Progress(
        *_columns(console, num_steps, num_rows), console=console, redirect_stdout=prints_here
    ) as bar:
        yield _Bar(bar, num_steps or num_rows)


class _Unfailing:
    """Standard error as it is now; what it does not take, as its terminal is gone, is not told."""

    def __init__(self) -> None:
        self._stream = sys.stderr

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write what can be written."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Have it shown, if it can be."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def _has_widgets(console: Console) -> bool:
    return console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None


def _columns(console: Console, num_steps: int | None, num_rows: int | None) -> list[ProgressColumn]:
    """The parts of the progress line; a prompt or an answer is no markup."""
    doing = TextColumn("{task.description}", markup=False)
    if num_steps is None and num_rows is None:
        return [SpinnerColumn("dots" if console.encoding.startswith("utf") else "line"), doing]
    counted: list[ProgressColumn] = [
        doing,
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
    ]
    if num_steps is not None:
        counted.append(TextColumn("{task.fields[prompt]}", style="dim", markup=False))
    return counted


def shortened(prompt: str) -> str:
    """A prompt on one line that fits beside other columns: its end matters least."""
    prompt = " ".join(prompt.split())
    return prompt if len(prompt) <= _PROMPT_WIDTH else f"{prompt[: _PROMPT_WIDTH - 3]}..."


def _print(text: str) -> None:
    """A line on standard error; where nobody can be told, the run goes on."""
    if sys.stderr is None:  # which print would take for standard output
        return
    with contextlib.suppress(OSError, ValueError):
        print(f"greater-fast: {visible(text)}", file=sys.stderr, flush=True)
