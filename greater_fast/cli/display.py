"""What a person sees in the terminal when a command is done: tables, and a few lines."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any

from rich.table import Table
from rich.text import Text

from greater_fast.model.byte_sizes import format_bytes
from greater_fast.runs.statistics import is_sure, p_text, points_text
from greater_fast.runs.visible import visible


def steps_table(steps: list[dict[str, Any]]) -> Table:
    """One row a step of the step log, which counts from 0; people count from 1."""
    table = _table("steps", ("step", "place", "objective", "error"))
    table.add_column("tried (score -> objective)", overflow="fold")
    table.add_column("prompt", overflow="fold")
    table.add_column("seconds", justify="right", overflow="fold")
    for step in steps:
        tried = "\n".join(
            f"{t['token'].strip() or t['token']!r} {_score_of(t)} -> {_outcome_of(t)}"
            for t in step["trials"]
        )
        cells = (
            str(step["step"] + 1),
            f"{step['index']}{'+' if step['grows'] else ''}",
            f"{step['objective']:.4f}",
            f"{step['error_rate']:.1%}",
            tried or "no candidates",
            step["prompt"] if step["changed"] else "unchanged",
            f"{sum(step['seconds'].values()):.1f}",
        )
        _add(table, cells)
    return table


def _score_of(trial: dict[str, Any]) -> str:
    """The score of what was tried, or that it was drawn without one."""
    return "drawn" if trial["score"] is None else f"{trial['score']:+.3f}"


def _outcome_of(trial: dict[str, Any]) -> str:
    """The objective of what was tried, or how it ended without one."""
    if trial.get("dropped_after") is not None:  # older logs know nothing of races
        return f"dropped after {trial['dropped_after']} rows"
    return "pruned" if trial["objective"] is None else f"{trial['objective']:.4f}"


def finalists_table(result: dict[str, Any]) -> Table:
    """One row a prompt that was tried on the development rows, the initial one among them."""
    numbers = ["dev\naccuracy", "95% interval", "train\nerror", "objective"]
    title, is_judged = "prompts on the development rows", _judged(result["best"]) is not None
    if is_judged:
        title, numbers = "prompts that were judged", ["judged", *numbers]
    table = _table(title, ("", *numbers))
    table.add_column("prompt", overflow="fold")
    for prompt in result["finalists"]:
        role = [
            shown
            for name, shown in (("best", "best"), ("baseline", "initial"))
            if result[name]["prompt_ids"] == prompt["prompt_ids"]
        ]
        cells = (
            "\n".join(role),
            *([f"{_judged(prompt):g}"] if is_judged else []),
            percent(prompt["dev"]),
            interval(prompt["dev"]),
            f"{prompt['train_error_rate']:.1%}",
            f"{prompt['objective']:.4f}",
            prompt["prompt"],
        )
        _add(table, cells)
    return table


def plan_table(plan: dict[str, Any]) -> Table:
    """One row a part of a memory plan."""
    table = _table("memory", ("", "size"))
    table.add_column("how", overflow="fold")
    for need in plan["needs"]:
        cells = (need["name"], format_bytes(need["num_bytes"]), need["how"])
        _add(table, cells)
    return table


def _table(title: str, numbers: Iterable[str]) -> Table:
    """A table that begins with these columns; it cuts nothing off, however narrow it gets."""
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for name in numbers:
        table.add_column(name, justify="right" if name else "left", overflow="fold")
    return table


def _add(table: Table, cells: Iterable[str]) -> None:
    table.add_row(*(Text(visible(cell)) for cell in cells))


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
    steps = f"{result['num_steps']} step{'s' * (result['num_steps'] != 1)}"
    lines = [f"stopped: {result['stopped']} ({steps})"]
    for name, prompt in (("initial", baseline), ("best", best)):
        lines.append(f"{name} prompt: {prompt['prompt']}")
        if _judged(prompt) is not None:
            lines.append(f"  judged {_judged(prompt):g}")
        for split in ("train", "dev", "test"):
            if prompt.get(split) is not None:
                lines.append(
                    f"  {split} accuracy {percent(prompt[split])} of {prompt[split]['num_rows']} "
                    f"rows (95% interval {interval(prompt[split])})"
                )
                lines.extend(_each_model(prompt[split]))
        if prompt.get("train") is not None and "metric" not in prompt["train"]:
            lines.append(
                f"  train accuracy token by token, as the search counts it: "
                f"{1 - prompt['train_error_rate']:.1%}"
            )
    for split in ("dev", "test"):
        comparison = result[f"{split}_comparison"]
        if comparison is not None and not _same(best, baseline):
            first, second = comparison["num_only_first"], comparison["num_only_second"]
            counts = f"right with only the best prompt: {first}, only the initial: {second}"
            if not _is_of_right_rows(comparison):
                counts = f"better with the best prompt: {first}, with the initial: {second}"
            lines.append(f"{split} rows {counts} ({_test(comparison)})")
        if split == "dev":
            lines.extend(_optimism(result))
    where = f"run directory: {result['run_dir']}{_how_it_goes_on(result)}"
    return [*lines, *_unmeasured(result), where, result["summary"]]


def _how_it_goes_on(result: dict[str, Any]) -> str:
    """The command that goes on with a run that was cut off, "" for one that was not."""
    if result["stopped"] == "out of time":
        return " (greater-fast resume goes on with it, with more --minutes)"
    if result["stopped"] not in ("interrupted", "terminated"):
        return ""
    if result["dev_comparison"] is not None:
        return " (greater-fast resume goes on with it)"
    number = result["num_steps"]
    return f" (greater-fast resume goes on with it; with --steps {number}, to its finals)"


def report_lines(report: dict[str, Any]) -> list[str]:
    """What an evaluation found, of one prompt or of two."""
    lines = [f"extractor: {report['extractor']}"]
    for part in (report, report["against"]):
        if part is not None:
            lines.append(f"{percent(part)} ({interval(part)}) of {part['num_rows']} rows")
            lines.extend(_each_model(part))
            lines.append(f"  {part['prompt']}")
    if report["comparison"]:
        low, high = report["comparison"]["interval"]
        counts = "only the first right {num_only_first}, only the second {num_only_second}"
        if not _is_of_right_rows(report["comparison"]):
            counts = "the first better on {num_only_first}, the second on {num_only_second}"
        lines.append(
            f"{counts}, {{test}}".format(
                **{**report["comparison"], "test": _test(report["comparison"])}
            )
        )
        difference = 100 * report["comparison"]["difference"]
        which = "the first" if difference >= 0 else "the second"
        chance = "" if is_sure(report["comparison"]["p_value"]) else ", which may be chance"
        by = f"{which} is better by {abs(difference):.1f} points{chance}"
        better = by if difference else "equal"
        lines.append(
            f"{better} (first less second: 95% interval {points_text(low)} to {points_text(high)})"
        )
    return lines


def _each_model(evaluation: dict[str, Any]) -> list[str]:
    """Of a mean of several models, a line for each."""
    return [
        f"    {name}: {percent(own)} ({interval(own)})"
        for name, own in evaluation.get("by_model", {}).items()
    ]


def _is_of_right_rows(comparison: dict[str, Any]) -> bool:
    """Whether rows are right or wrong, and nothing between: no metric's share, nor of models."""
    return comparison.get("test") is None


def _test(comparison: dict[str, Any]) -> str:
    """The test's name and its p."""
    return f"{comparison.get('test') or 'McNemar'} {p_text(comparison['p_value'])}"


def _optimism(result: dict[str, Any]) -> list[str]:
    """That the best of several prompts looks better on the rows it was chosen on."""
    best, num_measured = result["best"], len(_measured(result))
    if (
        _judged(best) is not None
        or _same(best, result["baseline"])
        or best["test"]
        or not best["dev"]
        or num_measured < 2
    ):
        return []
    return [
        f"the best prompt was chosen among {num_measured} on these dev rows, so its dev accuracy "
        "is optimistic; an unbiased one: --test, or greater-fast evaluate --run "
        f"{shlex.quote(str(result['run_dir']))} --data with other rows"
    ]


def _unmeasured(result: dict[str, Any]) -> list[str]:
    """What a run that ended early left unknown."""
    num_measured, num_prompts = len(_measured(result)), len(result["finalists"])
    if _judged(result["best"]) is not None:
        return []
    if result["best"]["dev"] is None:
        return [
            "no prompt was measured on the development rows: the run ended before, so the best "
            "prompt is that of the training rows"
        ]
    if num_measured < num_prompts:
        return [
            f"the run ended early: {num_measured} of {num_prompts} prompts were measured on the "
            "development rows"
        ]
    return []


def _measured(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [prompt for prompt in result["finalists"] if prompt["dev"] is not None]


def _judged(prompt: dict[str, Any]) -> float | None:
    """What a judge gave the prompt; older results know of none."""
    return prompt.get("judged")


def _same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return bool(first["prompt_ids"] == second["prompt_ids"])
