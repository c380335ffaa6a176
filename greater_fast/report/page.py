"""The page: what the templates are given, and the page that they make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greater_fast.model.byte_sizes import format_bytes
from greater_fast.report import candidates, figures, prompt_diff, repeat, rows, wording
from greater_fast.report.run_view import SPLITS, Prompt, RunView, Step
from greater_fast.report.verdict import (
    Verdict,
    can_go_on,
    cautions,
    ending,
    gain,
    significance,
    verdict,
)
from greater_fast.runs.input import changed_settings
from greater_fast.runs.statistics import points_text, signed
from greater_fast.version import __version__

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).with_name("templates")
_SECTIONS = {
    "gain": "Gain",
    "prompt": "Prompt",
    "search": "Search",
    "candidates": "Candidates",
    "rows": "Rows",
    "cost": "Time and memory",
    "settings": "Settings",
}
_SPLIT_NAMES = {"test": "test", "dev": "development", "train": "training"}


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a run is shown; the page says what is left out.

    `rows` of a group of rows, `characters` of a text, `steps` and accepted `changes` in tables.
    """

    rows: int = 60
    characters: int = 2400
    steps: int = 400
    changes: int = 200

    def halved(self) -> Limits:
        """Half of everything, but something of it."""
        return Limits(
            max(1, self.rows // 2),
            max(120, self.characters // 2),
            max(5, self.steps // 2),
            max(5, self.changes // 2),
        )

    @property
    def is_least(self) -> bool:
        """Whether no less can be shown."""
        return self.halved() == self


class ReportPage:
    """The page of some runs: its figures are drawn once, its text as often as it is asked for.

    Raises:
        ModuleNotFoundError: without jinja2, or matplotlib.
    """

    def __init__(self, views: Sequence[RunView]) -> None:
        self._views, self._environment = views, _environment()
        self._verdicts = [verdict(view) for view in views]
        self._tried = [candidates.outcomes(view) for view in views]
        self._figures = [_figures(v, tried) for v, tried in zip(views, self._tried, strict=True)]
        self._overview = _overview(views, self._verdicts) if len(views) > 1 else None

    def render(self, limits: Limits) -> str:
        """HTML with all that it needs inside."""
        self._environment.filters |= {
            "cut": partial(wording.cut, most=limits.characters),
            "json": lambda value: wording.cut(wording.as_json(value), limits.characters),
        }
        views = self._views
        return self._environment.get_template("report.html").render(
            runs=[self._run(view, limits) for view in views],
            overview=self._overview,
            version=__version__,
            split_names=_SPLIT_NAMES,
            prefix=wording.line(views[0].name) if len(views) == 1 else f"{len(views)} runs",
        )

    def _run(self, view: RunView, limits: Limits) -> dict[str, Any]:
        """What the templates know of a run."""
        found, steps = self._verdicts[view.number], view.steps[: limits.steps]
        tried, new = self._tried[view.number], view.new
        known = {
            "view": view,
            "id": f"run-{view.number + 1}",
            "verdict": found,
            "gain": gain(found.compared) if found.compared and not view.is_same else None,
            "ending": ending(view),
            "resuming": repeat.resuming(view) if can_go_on(view) else None,
            "facts": _facts(view),
            "figures": self._figures[view.number],
            "diff": _diff(view.initial, view.new, limits),
            "changes": _changes(view, limits),
            "is_last": bool(view.steps and new and view.steps[-1].prompt == new.text),
            "ranking": candidates.in_words(tried) if tried else candidates.why_none(view),
            "num_given_up": candidates.num_given_up(view),
            "steps": [(step, _trials(step)) for step in steps],
            "num_steps_left_out": len(view.steps) - len(steps),
            "finalists": view.finalists[: limits.rows],
            "row_sets": _row_sets(view, limits),
            "when_right": rows.when_right(
                view.run.object("config").text("metric"), view.run.text("metric")
            ),
            "cost": _cost(view),
            "settings": repeat.all_settings(view),
            "changed_settings": changed_settings(view.run.object("config").values),
            "commands": repeat.commands(view),
            "not_repeated": repeat.not_repeated(view),
            "cautions": cautions(view),
            "notes": view.run.texts("notes"),
        }
        return {**known, **_sections(known)}


def _environment() -> Environment:
    """The templates, and how they show numbers and texts; whatever is put in is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bytes": format_bytes,
        "duration": wording.duration,
        "interval": wording.interval,
        "line": wording.line,
        "many": wording.many,
        "number": wording.number,
        "percent": wording.percent,
        "points": points_text,
        "signed": partial(signed, digits=3),
        "significance": significance,
    }
    return environment


def _sections(run: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Names and titles of the sections that have something to show, and of those that have not."""
    view, cost = run["view"], run["cost"]
    has = {
        "gain": run["figures"]["accuracies"] or view.finalists,
        "prompt": run["diff"],
        "search": view.steps,
        "candidates": view.steps,
        "rows": run["row_sets"],
        "cost": cost["total"] or cost["needs"] or cost["peak_bytes"],
        "settings": run["settings"] or run["commands"] or view.run.object("versions"),
    }
    return {
        "sections": {name: title for name, title in _SECTIONS.items() if has[name]},
        "left_out": {name: title for name, title in _SECTIONS.items() if not has[name]},
    }


def _figures(view: RunView, tried: Sequence[candidates.Outcome]) -> dict[str, str]:
    return {
        "accuracies": figures.accuracies(view),
        "objective": figures.course([view], "objective"),
        "error": figures.course([view], "error"),
        "scatter": figures.scatter(view, tried),
        "seconds": figures.seconds(view),
    }


def _facts(view: RunView) -> list[tuple[str, str]]:
    """Names and values that tell a run from others, at a glance."""
    counts = [(s, view.num_examples(s)) for s in reversed(SPLITS) if view.num_examples(s)]
    planned = view.run.object("config").count("steps")
    of = f" of {planned}" if planned is not None else ""
    spent = sum(figures.total_seconds(view.steps).values())
    facts = [
        ("Models" if len(view.models) > 1 else "Model", " and ".join(view.models)),
        ("Rows", ", ".join(f"{number} {_SPLIT_NAMES[split]}" for split, number in counts)),
        ("Steps", f"{len(view.steps)}{of}" if view.steps or planned is not None else ""),
        ("Accepted changes", str(len(view.accepted)) if view.steps else ""),
        ("Time of the search", wording.duration(spent) if spent else ""),
        ("Started", (view.run.text("started") or "").replace("T", " ").replace("+00:00", " UTC")),
    ]
    return [(name, wording.cut(value, 300)) for name, value in facts if value]


def _diff(before: Prompt | None, after: Prompt | None, limits: Limits) -> dict[str, Any] | None:
    """The prompt before and after, in marked stretches."""
    if before is None or after is None:
        return None
    pieces, most = prompt_diff.changes(before.text, after.text), limits.characters
    return {
        "before": prompt_diff.shown(pieces, without="added", most=most),
        "after": prompt_diff.shown(pieces, without="removed", most=most),
    }


def _changes(view: RunView, limits: Limits) -> list[dict[str, Any]]:
    """Each accepted change in its context, with the objective before and after."""
    found = []
    before = view.initial.text if view.initial else None
    value = view.initial.objective if view.initial and view.result else None
    for step in view.steps:
        if step.changed and before is not None:
            pieces = prompt_diff.in_context(prompt_diff.changes(before, step.prompt))
            found.append({"step": step, "pieces": pieces, "before": value})
        before, value = step.prompt, step.objective
        if len(found) == limits.changes:
            break
    return found


def _trials(step: Step) -> list[tuple[Any, str]]:
    """The candidates of a step, and what became of each."""

    def outcome(trial: Any) -> str:
        if candidates.is_winner(step, trial):
            return "accepted"
        if trial.dropped_after is not None:
            return f"dropped by the race after {wording.many(trial.dropped_after, 'row')}"
        return "given up early" if trial.objective is None else "not accepted"

    return [(trial, outcome(trial)) for trial in step.trials]


def _row_sets(view: RunView, limits: Limits) -> list[tuple[str, list[rows.Group]]]:
    """Rows of each set of which there are some, in groups by what became of them."""
    if view.initial is None or view.new is None:
        return []
    prompts = (view.initial.text, view.new.text)
    pairs = {
        split: rows.paired(view.rows, split, prompts, view.num_examples(split))
        for split in ("test", "dev")
    }
    return [(split, rows.grouped(own, limits.rows)) for split, own in pairs.items() if own]


def _cost(view: RunView) -> dict[str, Any]:
    """Where time and memory went."""
    totals = figures.total_seconds(view.steps)
    needs = [
        (need.text("name") or "", need.number("num_bytes") or 0.0, need.text("how") or "")
        for need in view.run.object("memory_plan").objects("needs")
    ]
    return {
        "seconds": totals,
        "total": sum(totals.values()),
        "num_tokens": sum(step.num_tokens or 0 for step in view.steps),
        "peak_bytes": max((step.peak_bytes or 0 for step in view.steps), default=0),
        "needs": needs,
        "largest": max((size for _, size, _ in needs), default=0.0),
        "planned_bytes": int(sum(size for _, size, _ in needs)),
    }


def _overview(views: Sequence[RunView], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Several runs side by side: their gains, their courses, and where their settings differ."""
    every = [repeat.all_settings(view) for view in views]
    names = dict.fromkeys(name for settings in every for name in settings)
    written = {name: [_written(settings, name) for settings in every] for name in names}
    better = sum(found.tone == "good" for found in verdicts)
    return {
        "gains": figures.gains(views, [found.compared for found in verdicts]),
        "objective": figures.course(views, "objective"),
        "error": figures.course(views, "error"),
        "differing": [(name, own) for name, own in written.items() if len(set(own)) > 1],
        "headline": f"{len(views)} runs side by side: {better or 'none'} with a gain beyond chance",
    }


def _written(settings: Mapping[str, Any], name: str) -> str:
    return wording.as_json(settings[name]) if name in settings else wording.NONE
