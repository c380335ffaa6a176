"""A run as its folder has it, to be gone on with: what was finished, and nothing behind that.

`state.json` says what is finished, and is written last: lines of the step log and of the rollouts
that it does not know of are of a step that was cut off, and are removed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from greater_fast.config import Config
from greater_fast.examples.layout import Layouts
from greater_fast.runs.evaluation import RowRecord
from greater_fast.runs.read import models_of, read_lines, read_object
from greater_fast.search.nouns import UNCHANGED, Step
from greater_fast.search.state import LoopState
from greater_fast.wording import listed, numbered

RUN_FORMAT = 1  # of the files of a run, all together

Rows = dict[str, dict[int, RowRecord]]


@dataclass(frozen=True, slots=True)
class SavedRun:
    """What a sitting before this one came to.

    `run` is `run.json`, `examples` the rows of each split. `state` is None where the initial prompt
    was not scored yet. `ended` says why the search ended, and of how many planned steps, where
    finals and test had not. `rows` are those that were evaluated, by split, prompt and model ("" of
    one alone), then by number; `tested_after` are the numbers of steps after which test rows were.
    `clock` has the seconds that all sittings took. The last step `is_unanswered` where an `on_step`
    was not heard out on it. `judgement` has the `prompts` that were judged, and their `values`.
    """

    run: dict[str, Any]
    examples: list[dict[str, Any]]
    state: LoopState | None = None
    steps: tuple[Step, ...] = ()
    ended: Mapping[str, Any] | None = None
    rows: dict[tuple[str, str, str], dict[int, RowRecord]] = field(default_factory=dict)
    tested_after: frozenset[int] = frozenset()
    clock: Mapping[str, float] = field(default_factory=dict)
    is_unanswered: bool = False
    judgement: Mapping[str, Any] | None = None

    @property
    def model(self) -> str | list[str]:
        """The model of the run by its name or folder, or several.

        Raises:
            ValueError: one was loaded by the user, which no file holds.
        """
        sources = models_of(self.run)
        return sources[0] if len(sources) == 1 else sources

    @property
    def model_names(self) -> tuple[str, ...]:
        """What the rows of several models are known by, as the run was begun; () of one alone."""
        names = self.run.get("model")
        return tuple(numbered(names)) if isinstance(names, list) else ()

    @property
    def num_steps(self) -> int:
        """Steps that are done."""
        return self.state.step if self.state else 0

    def ended_before(self, config: Config) -> str | None:
        """Why the search of such settings ended, where finals or test had not.

        None where there is more of what it ended for want of: steps, minutes, or sweeps.
        """
        if self.ended is None or self.ended["steps"] != config.steps:
            return None
        before, why = self.ended.get("minutes"), str(self.ended["why"])
        if before is not None and (config.minutes is None or config.minutes > before):
            return None
        return None if why == UNCHANGED and not config.stop_unchanged else why

    def test_seen_before(self, num_steps: int) -> int | None:
        """After how many steps, fewer than these, test rows were evaluated last; None for never."""
        return max((n for n in self.tested_after if n < num_steps), default=None)

    def rows_of(self, split: str, prompt: str, layouts: Layouts) -> Rows:
        """The rows of a prompt on a set, by model ("" of one alone) and number."""
        return {
            model: {
                number: row
                for number, row in rows.items()
                if number < len(layouts) and layouts.rows[number].example.question == row.question
            }
            for (own_split, own_prompt, model), rows in self.rows.items()
            if (own_split, own_prompt) == (split, prompt)
        }

    @classmethod
    def of(cls, folder: Path) -> SavedRun | None:
        """The run of a folder that nobody else is at work in; None where none had begun there.

        Lines of what was not finished are cut off.

        Raises:
            ValueError: a file that is needed is damaged or lost; says which.
        """
        damage: list[str] = []
        run = read_object(folder / "run.json", damage)
        if run is None and not (folder / "state.json").exists():
            damage = []  # the claim of a process that was killed as it wrote it
        _refuse(folder, damage)
        if run is None or "claimed" in run:
            return None
        if run.get("format") != RUN_FORMAT:
            version = run.get("versions", {}).get("greater_fast", "unknown")
            raise _damaged(folder, f"another version of greater_fast ({version}) wrote its files")
        examples = read_lines(folder / "examples.jsonl", damage)
        if not examples and not damage:  # of a disk that took the small file alone, or of a copy
            damage.append("examples.jsonl is not there, or empty: put it back where there is one")
        values = read_object(folder / "state.json", damage)
        _refuse(folder, damage)
        rows, tested_after = _read_rows(folder / "rows.jsonl")
        found = cls(run, examples, rows=rows, tested_after=tested_after)
        if values is None:
            _refuse(folder, _lost_state(folder))
            for name in ("steps.jsonl", "rollouts.jsonl"):
                _put_aside(folder / name)
            return found
        try:
            state, steps = _read_search(folder, values)
            clock = {**_guessed_clock(steps), **(read_object(folder / "clock.json", []) or {})}
            seconds = {name: float(value) for name, value in clock.items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _damaged(folder, error) from error
        search = (state, steps, values.get("ended"))
        is_unanswered = bool(steps) and bool(values.get("unanswered"))
        more = (is_unanswered, values.get("judged"))
        return cls(run, examples, *search, rows, tested_after, seconds, *more)


def _lost_state(folder: Path) -> list[str]:
    """A line where a run had come further than its missing state says; an empty list else.

    A kill before the first state leaves rollouts of the initial prompt; where a disk took no state
    then, perhaps a step.
    """
    names = [name for name in ("result.json", "earlier_result.json") if (folder / name).exists()]
    if len(read_lines(folder / "steps.jsonl", [])) > 1:
        names = ["steps.jsonl", *names]
    return [f"state.json is not there, beside {listed(names, 3)}: put it back"] if names else []


def _guessed_clock(steps: Sequence[Step]) -> dict[str, float]:
    """What the clock would say, were it lost: all steps' seconds, a prompt's score on average."""
    seconds = [sum(step.seconds.values()) for step in steps]
    selecting = sum(step.seconds.get("select", 0.0) for step in steps)
    num_scored = sum(len(step.trials) for step in steps)
    return {"seconds": sum(seconds), "score_seconds": selecting / max(num_scored, 1)}


def _put_aside(path: Path) -> None:
    """Give a file that is begun anew the name of a copy, where there is anything in it."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size:
            path.replace(path.with_name(f"{path.name}.before"))


def _read_search(folder: Path, values: dict[str, Any]) -> tuple[LoopState, tuple[Step, ...]]:
    """The state and the finished steps; what is behind them is cut off."""
    damage: list[str] = []
    steps = _kept_lines(folder / "steps.jsonl", values["step"], damage)
    scored = [tuple(entry["prompt_ids"]) for entry in values["scored"]]
    rollouts = _kept_lines(folder / "rollouts.jsonl", len(scored), damage)
    if damage:
        raise ValueError("; ".join(damage))
    if [step["step"] for step in steps] != list(range(len(steps))):
        raise ValueError("steps.jsonl does not count its steps from 0")
    if [tuple(line["prompt_ids"]) for line in rollouts] != scored:
        raise ValueError("rollouts.jsonl has other prompts than state.json")
    return LoopState.from_dict(values, rollouts), tuple(map(Step.from_dict, steps))


def _kept_lines(path: Path, number: int, damage: list[str]) -> list[Any]:
    """The first lines of a file, which all are whole; the others are cut off."""
    _cut_lines(path, number)
    lines = read_lines(path, damage)
    if len(lines) < number and not damage:
        damage.append(f"{path.name} has {len(lines)} of the {number} lines that state.json knows")
    return lines


def _cut_lines(path: Path, number: int | None) -> None:
    """Cut a file behind so many lines, or behind its last whole one; a shorter one stays."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    lines = content.split(b"\n")[:-1]
    size = sum(len(line) + 1 for line in lines[:number])
    if size < len(content):
        os.truncate(path, size)


def _read_rows(
    path: Path,
) -> tuple[dict[tuple[str, str, str], dict[int, RowRecord]], frozenset[int]]:
    """Rows that were evaluated, and after how many steps those of the test were."""
    _cut_lines(path, None)
    rows: dict[tuple[str, str, str], dict[int, RowRecord]] = {}
    tested_after = set()
    for line in read_lines(path, []):  # a damaged row is evaluated again
        key = (str(line.get("split")), str(line.get("prompt")), str(line.get("model", "")))
        try:
            number, num_steps, row = line["row"], line["num_steps"], RowRecord.from_dict(line)
        except (KeyError, TypeError):
            continue
        rows.setdefault(key, {}).setdefault(number, row)
        if key[0] == "test":
            tested_after.add(num_steps)
    return rows, frozenset(tested_after)


def _refuse(folder: Path, damage: list[str]) -> None:
    if damage:
        raise _damaged(folder, "; ".join(damage))


def _damaged(folder: Path, why: object) -> ValueError:
    return ValueError(
        f"the run in {folder} cannot be gone on with: {why}; begin it anew in another folder"
    )
