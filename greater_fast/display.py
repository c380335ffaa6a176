"""What a person sees in the terminal: progress while it runs, tables afterwards."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from greater_fast.nouns import Step

_PROMPT_WIDTH = 60


@contextlib.contextmanager
def progress(num_steps: int) -> Iterator[Callable[[Step], None]]:
    """A progress bar on standard error, fed with finished steps; silent where there is no terminal.

    Between the steps it shows what the run is doing.
    """
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[prompt]}", style="dim"),
        console=console,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("starting", total=num_steps or None, prompt="")

        def show(record: logging.LogRecord) -> bool:
            bar.update(task, description=record.getMessage()[:48])
            return False

        def on_step(step: Step) -> None:
            bar.update(
                task,
                completed=step.step + 1,
                description=f"objective {step.objective:.4f}",
                prompt=shortened(step.prompt),
            )

        log = logging.getLogger("greater_fast")
        level = log.level
        log.addFilter(show)
        log.setLevel(logging.INFO)
        try:
            yield on_step
        finally:
            log.removeFilter(show)
            log.setLevel(level)


def shortened(prompt: str) -> str:
    """A prompt that fits beside other columns: its end matters least."""
    return prompt if len(prompt) <= _PROMPT_WIDTH else f"{prompt[: _PROMPT_WIDTH - 3]}..."


def steps_table(steps: list[dict[str, Any]]) -> Table:
    """One row a step of the step log."""
    table = Table(title="steps", title_justify="left")
    for name in ("step", "place", "objective", "error"):
        table.add_column(name, justify="right")
    table.add_column("tried (score -> objective)")
    table.add_column("prompt")
    table.add_column("seconds", justify="right")
    for step in steps:
        tried = "\n".join(
            f"{t['token'].strip() or t['token']!r} {t['score']:+.3f} -> "
            + ("pruned" if t["objective"] is None else f"{t['objective']:.4f}")
            for t in step["trials"]
        )
        table.add_row(
            str(step["step"]),
            f"{step['index']}{'+' if step['grows'] else ''}",
            f"{step['objective']:.4f}",
            f"{step['error_rate']:.1%}",
            tried or "no candidates",
            step["prompt"] if step["changed"] else "unchanged",
            f"{sum(step['seconds'].values()):.1f}",
        )
    return table


def finalists_table(result: dict[str, Any]) -> Table:
    """One row a prompt that was tried on the development rows, the initial one among them."""
    table = Table(title="prompts on the development rows", title_justify="left")
    for name in ("", "dev accuracy", "95% interval", "train error", "objective"):
        table.add_column(name, justify="right" if name else "left")
    table.add_column("prompt")
    for prompt in result["finalists"]:
        role = [
            name
            for name in ("best", "baseline")
            if result[name]["prompt_ids"] == prompt["prompt_ids"]
        ]
        table.add_row(
            ", ".join("initial" if name == "baseline" else name for name in role),
            percent(prompt["dev"]),
            interval(prompt["dev"]),
            f"{prompt['train_error_rate']:.1%}",
            f"{prompt['objective']:.4f}",
            prompt["prompt"],
        )
    return table


def percent(evaluation: dict[str, Any] | None) -> str:
    """Accuracy for a reader."""
    return "-" if evaluation is None else f"{evaluation['accuracy']:.1%}"


def interval(evaluation: dict[str, Any] | None) -> str:
    """The accuracy's 95% interval for a reader."""
    if evaluation is None:
        return "-"
    low, high = evaluation["interval"]
    return f"{low:.1%} to {high:.1%}"


def outcome(result: dict[str, Any]) -> list[str]:
    """The outcome in a few honest lines."""
    best, baseline = result["best"], result["baseline"]
    lines = [f"stopped: {result['stopped']} ({result['num_steps']} steps)"]
    for name, prompt in (("initial", baseline), ("best", best)):
        lines.append(f"{name} prompt: {prompt['prompt']}")
        lines.extend(
            f"  {split} accuracy {percent(prompt[split])} of {prompt[split]['num_rows']} rows "
            f"(95% interval {interval(prompt[split])})"
            for split in ("dev", "test")
            if prompt[split] is not None
        )
    for split in ("dev", "test"):
        comparison = result[f"{split}_comparison"]
        if comparison is not None and best["prompt_ids"] != baseline["prompt_ids"]:
            lines.append(
                f"{split} rows right with only the best prompt: {comparison['num_only_first']}, "
                f"only the initial: {comparison['num_only_second']} "
                f"(McNemar p = {comparison['p_value']:.3f})"
            )
    if best["prompt_ids"] == baseline["prompt_ids"]:
        lines.append("nothing was gained: the initial prompt is still the best")
    elif best["dev"] is None:
        lines.append("not measured on the development rows: the run was interrupted before")
    elif best["dev"]["num_correct"] <= baseline["dev"]["num_correct"]:
        lines.append("nothing was gained on the development rows")
    lines.append(f"run directory: {result['run_dir']}")
    return lines
