"""What a person sees in the terminal: progress while it runs, tables afterwards."""

from __future__ import annotations

import contextlib
import logging
import shlex
from collections.abc import Callable, Iterable, Iterator
from typing import Any

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
from rich.table import Table
from rich.text import Text

from greater_fast.model.byte_sizes import format_bytes
from greater_fast.search.nouns import Step

_PROMPT_WIDTH = 60


@contextlib.contextmanager
def progress(num_steps: int | None = None) -> Iterator[Callable[[Step], None]]:
    """What is being done, on standard error; silent where there is no terminal.

    With a number of steps, a bar that is fed with finished ones; without, a spinner.
    """
    console = Console(stderr=True)
    bar = Progress(
        *_columns(num_steps is not None), console=console, disable=not console.is_terminal
    )
    with bar:
        task = bar.add_task("starting", total=num_steps or None, prompt="")

        def show(record: logging.LogRecord) -> bool:
            title, _, table = record.getMessage().partition("\n")
            bar.update(task, description=title[:48])
            if table and console.is_terminal:  # it stays above the line
                console.print(table, markup=False, emoji=False, highlight=False, soft_wrap=True)
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


def _columns(counts_steps: bool) -> list[ProgressColumn]:
    """The parts of the progress line; a prompt or an answer is no markup."""
    doing = TextColumn("{task.description}", markup=False)
    if not counts_steps:
        return [SpinnerColumn(), doing]
    return [
        doing,
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[prompt]}", style="dim", markup=False),
    ]


def shortened(prompt: str) -> str:
    """A prompt on one line that fits beside other columns: its end matters least."""
    prompt = " ".join(prompt.split())
    return prompt if len(prompt) <= _PROMPT_WIDTH else f"{prompt[: _PROMPT_WIDTH - 3]}..."


def steps_table(steps: list[dict[str, Any]]) -> Table:
    """One row a step of the step log."""
    table = _table("steps", ("step", "place", "objective", "error"))
    table.add_column("tried (score -> objective)", overflow="fold")
    table.add_column("prompt", overflow="fold")
    table.add_column("seconds", justify="right", overflow="fold")
    for step in steps:
        tried = "\n".join(
            f"{t['token'].strip() or t['token']!r} {t['score']:+.3f} -> "
            + ("pruned" if t["objective"] is None else f"{t['objective']:.4f}")
            for t in step["trials"]
        )
        cells = (
            str(step["step"]),
            f"{step['index']}{'+' if step['grows'] else ''}",
            f"{step['objective']:.4f}",
            f"{step['error_rate']:.1%}",
            tried or "no candidates",
            step["prompt"] if step["changed"] else "unchanged",
            f"{sum(step['seconds'].values()):.1f}",
        )
        table.add_row(*map(Text, cells))
    return table


def finalists_table(result: dict[str, Any]) -> Table:
    """One row a prompt that was tried on the development rows, the initial one among them."""
    numbers = ("dev\naccuracy", "95% interval", "train\nerror", "objective")
    table = _table("prompts on the development rows", ("", *numbers))
    table.add_column("prompt", overflow="fold")
    for prompt in result["finalists"]:
        role = [
            shown
            for name, shown in (("best", "best"), ("baseline", "initial"))
            if result[name]["prompt_ids"] == prompt["prompt_ids"]
        ]
        cells = (
            "\n".join(role),
            percent(prompt["dev"]),
            interval(prompt["dev"]),
            f"{prompt['train_error_rate']:.1%}",
            f"{prompt['objective']:.4f}",
            prompt["prompt"],
        )
        table.add_row(*map(Text, cells))
    return table


def plan_table(plan: dict[str, Any]) -> Table:
    """One row a part of a memory plan."""
    table = _table("memory", ("", "size"))
    table.add_column("how", overflow="fold")
    for need in plan["needs"]:
        cells = (need["name"], format_bytes(need["num_bytes"]), need["how"])
        table.add_row(*map(Text, cells))
    return table


def _table(title: str, numbers: Iterable[str]) -> Table:
    """A table that begins with these columns; it cuts nothing off, however narrow it gets."""
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for name in numbers:
        table.add_column(name, justify="right" if name else "left", overflow="fold")
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
            for split in ("train", "dev", "test")
            if prompt.get(split) is not None
        )
        if prompt.get("train") is not None:
            lines.append(
                f"  train accuracy token by token, as the search counts it: "
                f"{1 - prompt['train_error_rate']:.1%}"
            )
    for split in ("dev", "test"):
        comparison = result[f"{split}_comparison"]
        if comparison is not None and not _same(best, baseline):
            lines.append(
                f"{split} rows right with only the best prompt: {comparison['num_only_first']}, "
                f"only the initial: {comparison['num_only_second']} "
                f"(McNemar p = {comparison['p_value']:.3f})"
            )
        if split == "dev":
            lines.extend(_optimism(result))
    return [*lines, *_verdict(result), f"run directory: {result['run_dir']}"]


def _optimism(result: dict[str, Any]) -> list[str]:
    """That the best of several prompts looks better on the rows it was chosen on."""
    best, num_measured = result["best"], len(_measured(result))
    if _same(best, result["baseline"]) or best["test"] or not best["dev"] or num_measured < 2:
        return []
    return [
        f"the best prompt was chosen among {num_measured} on these dev rows, so its dev accuracy "
        "is optimistic; an unbiased one: --test, or greater-fast evaluate --run "
        f"{shlex.quote(str(result['run_dir']))} --data with other rows"
    ]


def _verdict(result: dict[str, Any]) -> list[str]:
    """What was not gained, and what an interruption left unknown."""
    best, baseline = result["best"], result["baseline"]
    num_measured, num_prompts = len(_measured(result)), len(result["finalists"])
    if best["dev"] is None:
        return [
            "no prompt was measured on the development rows: the run was interrupted before, so "
            "the best prompt is that of the training rows"
        ]
    lines = []
    if num_measured < num_prompts:
        lines.append(
            f"the run was interrupted: {num_measured} of {num_prompts} prompts were measured on "
            "the development rows"
        )
    if baseline["dev"] is None:
        lines.append(
            "the initial prompt was not measured on them because the run was interrupted: "
            "whether anything was gained is unknown"
        )
    elif _same(best, baseline):
        so_far = " so far" if lines else ""
        lines.append(f"nothing was gained{so_far}: the initial prompt is still the best")
    elif best["dev"]["num_correct"] <= baseline["dev"]["num_correct"]:
        lines.append("nothing was gained on the development rows")
    return lines


def _measured(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [prompt for prompt in result["finalists"] if prompt["dev"] is not None]


def _same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return bool(first["prompt_ids"] == second["prompt_ids"])
