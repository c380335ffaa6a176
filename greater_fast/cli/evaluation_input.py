"""What `greater-fast evaluate` is given: by its options, and by the run that it names."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from greater_fast.cli.options import load_rows, one_or_all, settings
from greater_fast.config import Config
from greater_fast.examples.data import Examples
from greater_fast.examples.loading.choices import check_readings
from greater_fast.runs.directory import read_run
from greater_fast.runs.input import OF_EVALUATION, InputError, checking_input
from greater_fast.runs.read import models_of
from greater_fast.runs.rows.unseen import unseen
from greater_fast.runs.visible import visible


class EvaluationInput(NamedTuple):
    """What `evaluate` is given, by its names, and which of its settings are those of the run."""

    given: dict[str, Any]
    taken: tuple[str, ...] = ()

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Within, an error that names a setting of the run says whose that is."""
        try:
            yield
        except InputError as error:
            default = Config().to_dict()
            for name in self.taken:
                if re.search(rf"\b{name}\b", str(error)):
                    other = "no-" if default.get(name) is False else ""  # the run's is True
                    option = f"--{other}{name.replace('_', '-')}"
                    error.add_note(f"the {name} is that of the run: {option} gives another one")
            raise


def evaluation_input(options: argparse.Namespace) -> EvaluationInput:
    """What `evaluate` is given by the options, and by the run that they name.

    Raises:
        ValueError: something is missing, a file of the run is damaged, or no row is unseen.
    """
    run = _run_for_evaluation(options) if options.run else None
    base: dict[str, Any] = {}
    against = options.against
    if run is not None:
        own = {**run["run"]["config"], "extractor": run["run"]["extractor"]}
        base = {name: value for name, value in own.items() if name in OF_EVALUATION}
        if options.prompt is None and against is None:
            initial = _initial_prompt_of(run)
            against = initial if initial != prompt_of(run) else None
    model = one_or_all(options.model or (models_of(run["run"]) if run else [""]))
    prompt = options.prompt
    if prompt is None:
        prompt = prompt_of(run) if run else ""
    config = settings(options, base)
    taken = _taken(options, base, config)
    with EvaluationInput({}, taken).explained(), checking_input():
        given_rows = (options.data, options.columns, config.template)
        rows = load_rows(*given_rows, columns_of(run) if run else None) or Examples([])
        if run is not None:
            check_readings({"the run": run["run"].get("readings", ()), "data": rows.readings})
    if run is not None:
        if run["result"] is None:
            why = f"it failed: {run['failure']}" if run["failure"] else "it was cut off, or goes on"
            warning = f"the run has no result ({why}): its last prompt is evaluated"
            print(f"greater-fast: warning: {visible(warning)}", file=sys.stderr)
        if config.template != run["run"]["config"].get("template"):
            warning = "the template is not the run's: rows that the run has seen cannot be told"
            print(f"greater-fast: warning: {warning}", file=sys.stderr)
        measured = run["run"].get("metric")
        if measured not in (None, run["run"]["config"].get("metric")) and config.metric is None:
            warning = (
                f"the run measured answers by {measured}, a function that is not known here: they "
                "are compared with the gold ones, unless --metric (in Python, metric=) says "
                "otherwise"
            )
            print(f"greater-fast: warning: {visible(warning)}", file=sys.stderr)
        rows = _unseen(rows, run["examples"])
        if "metric" in taken:
            rows = rows.those(rows, f"the metric {config.metric} is that of the run")
    given = (("--model", model), ("--prompt", prompt))
    if missing := [name for name, value in given if not value]:
        raise ValueError(f"{' and '.join(missing)} missing: give it, or --run RUN to take it from")
    named = {"model": model, "data": rows, "prompt": prompt, "against": against, "config": config}
    return EvaluationInput(named, taken)


def _taken(options: argparse.Namespace, base: dict[str, Any], config: Config) -> tuple[str, ...]:
    """Settings that are those of the run, for nothing else was said, and not the defaults."""
    unsaid = settings(options, {})
    default = Config()
    return tuple(
        name
        for name in base
        if getattr(unsaid, name) == getattr(default, name) != getattr(config, name)
    )


def _run_for_evaluation(options: argparse.Namespace) -> dict[str, Any]:
    """A run whose files are whole, as far as they are needed here.

    Raises:
        ValueError: a file is damaged; says which.
    """
    run = read_run(options.run)
    if run["damage"]:
        raise ValueError(
            f"{'; '.join(run['damage'])}: without it there is no telling which rows and prompts "
            "are the run's; give --model, --prompt and the settings instead of --run"
        )
    try:
        _ = (run["run"]["config"], run["run"]["extractor"], run["run"]["model"], prompt_of(run))
        _ = [(example["question"], example["split"]) for example in run["examples"]]
        _ = _initial_prompt_of(run)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"the run in {options.run} is damaged: its files lack {error}") from error
    return run


def columns_of(run: dict[str, Any]) -> dict[str, str]:
    """The columns of a run's rows that its user named."""
    found = run["run"].get("columns")  # runs of before have none
    found = found if isinstance(found, dict) else {}
    return {role: name for role, name in found.items() if isinstance(name, str)}


def _initial_prompt_of(run: dict[str, Any]) -> str:
    """The prompt that a run began with."""
    return str((run["result"] or {"baseline": run["run"]})["baseline"]["prompt"])


def prompt_of(run: dict[str, Any]) -> str:
    """The best prompt of a run, or the last one of a run that was cut off."""
    if run["result"] is not None:
        return str(run["result"]["prompt"])
    return str(run["steps"][-1]["prompt"] if run["steps"] else run["run"]["prompt"])


def _unseen(rows: Examples, seen: list[dict[str, Any]]) -> Examples:
    """Rows that a run did not search or choose on; says how many were left out."""
    kept = unseen(rows, seen)
    if len(kept) < len(rows):
        left_out = len(rows) - len(kept)
        print(
            f"{left_out} of {len(rows)} rows left out: the run has searched or chosen on them",
            file=sys.stderr,
        )
    return kept
