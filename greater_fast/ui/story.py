"""What a run's folder says of it so far, in the words of the page."""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greater_fast.config import Config
from greater_fast.runs.directory import read_run
from greater_fast.runs.read import read_object
from greater_fast.runs.timing.time_budget import OUT_OF_TIME
from greater_fast.runs.visible import brief, visible
from greater_fast.search.nouns import Objective

LOG = "log.txt"  # what the run's process says, in the run's folder
_SPEAKER = re.compile(r"greater-fast(?: \w+)?: (?:error: )?")
_LOG_BYTES = 20_000  # of its end: more is not shown


@dataclass(frozen=True, slots=True)
class Story:
    """A run so far: `headline` in a line, `notes` what else is to be told.

    `steps` are those of the step log, `prompt` is the last or, where there is a result, the best.
    `start` has `objective` and `error_rate` of the initial prompt, as steps have their own.
    `goes_on` says whether a process is at work on it.
    """

    headline: str
    notes: tuple[str, ...] = ()
    steps: tuple[dict[str, Any], ...] = ()
    initial: str = ""
    prompt: str = ""
    num_planned: int = 0
    finished: bool = False
    start: dict[str, float] | None = None
    goes_on: bool = False


def tell(run: Path, goes_on: bool, has_failed: bool = False) -> Story:
    """The story of the run in that folder, which may be empty or damaged.

    `goes_on` says whether a process works on it, `has_failed` whether the last one has ended with
    an error, which is its last word.
    """
    said = _said(run / LOG)
    last = said[-1] if said else ""
    try:
        known = read_run(run)
        initial, planned = str(known["run"]["prompt"]), int(known["run"]["config"]["steps"])
    except (KeyError, TypeError, ValueError):
        headline = f"begins: {last or 'a process starts'}" if goes_on else last
        headline = headline or "this run has not begun: its process ended before"
        return Story(headline, goes_on=goes_on)
    steps, result = _whole(known["steps"]), known["result"]
    prompt = str(steps[-1]["prompt"]) if steps else initial
    notes = [visible(line) for line in known["damage"]]
    if goes_on:
        headline = f"runs, {len(steps)} of {planned} steps done: {last}"
    elif result is not None:
        prompt = str(result.get("prompt", prompt))
        headline = f"{result.get('summary', 'done')} Ended: {result.get('stopped', 'unknown')}."
        notes += [visible(note) for note in result.get("notes", ())]
        if has_failed and last:
            notes, headline = [headline, *notes], last
    else:
        headline = f"ended after {len(steps)} steps, without a result: it can go on"
        why = (last if has_failed else "") or str(known["failure"] or "")
        notes = [*([last] if last and not why else []), *notes]
        if why:
            notes, headline = [headline, *notes], why
    return Story(
        headline=visible(headline),
        goes_on=goes_on,
        notes=tuple(notes),
        steps=tuple(steps),
        initial=initial,
        prompt=prompt,
        num_planned=planned,
        finished=result is not None and not goes_on,
        start=_start(run, known["run"]["config"]),
    )


def is_out_of_time(run: Path) -> bool:
    """Whether a run has ended for want of minutes: it goes on with more of them alone."""
    result = read_object(run / "result.json", []) or {}
    return result.get("stopped") == OUT_OF_TIME


def version(run: Path) -> str:
    """A mark that is another one whenever the run has gone on, or has been gone on with."""
    times = []
    for name in ("run.json", "steps.jsonl", "state.json", "rows.jsonl", "result.json"):
        with contextlib.suppress(OSError):
            times.append(run.joinpath(name).stat().st_mtime_ns)
    return "-".join(f"{time:x}" for time in times)


def _start(run: Path, config: dict[str, Any]) -> dict[str, float] | None:
    """The initial prompt's figures: of all that were scored the state has it first."""
    state = read_object(run / "state.json", []) or {}
    try:
        found = Objective(**state["scored"][0]["objective"])
        objective = found.value(Config.from_mapping(config))
        figures = {"objective": float(objective), "error_rate": float(found.error_rate)}
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None
    return figures if all(map(math.isfinite, figures.values())) else None


def _whole(steps: list[Any]) -> list[dict[str, Any]]:
    """What the page shows of each step that has it: files of other versions may not."""
    whole = []
    for step in steps:
        with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
            figures = {name: float(step[name]) for name in ("objective", "error_rate")}
            trials = [{"token": str(trial["token"])} for trial in step["trials"]]
            shown = {"step": int(step["step"]), "prompt": str(step["prompt"]), "trials": trials}
            if all(map(math.isfinite, figures.values())):
                whole.append({**shown, **figures, "changed": bool(step["changed"])})
    return whole


def _said(log: Path) -> list[str]:
    """What the process told, a line each; nothing of a library's, and no traceback."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    spoken = ((line, _SPEAKER.match(line)) for line in text.splitlines())
    return [brief(visible(line[match.end() :]), 1000) for line, match in spoken if match]
