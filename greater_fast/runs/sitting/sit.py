"""A run from its folder to its result: begun, or gone on with where an earlier sitting ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from greater_fast.config import Config
from greater_fast.examples.data import Example
from greater_fast.examples.metrics import name_of_metric
from greater_fast.examples.splits import SplitCounts, Splits
from greater_fast.ranks import Ranks
from greater_fast.rollouts.distributed import choices_of, is_batch_invariant
from greater_fast.runs.directory import RunDirectory, surroundings
from greater_fast.runs.input import checking_input
from greater_fast.runs.models.ready import described, make_ready
from greater_fast.runs.on_ranks import placed
from greater_fast.runs.prepare import Prepared, dated, prepare
from greater_fast.runs.progress import told
from greater_fast.runs.result import Result
from greater_fast.runs.saved.differences import (
    OF_MEMORY,
    compare_examples,
    compare_functions,
    compare_identity,
    compare_layout,
    compare_settings,
    compare_sources,
    surroundings_notes,
)
from greater_fast.runs.saved.identity import (
    config_digest,
    ending_ids,
    layout_digest,
    weights_digest,
)
from greater_fast.runs.saved.saved_run import SavedRun
from greater_fast.runs.sitting.followers import followed
from greater_fast.runs.sitting.functions import Functions, name_of
from greater_fast.runs.sitting.run import Run
from greater_fast.runs.timing.time_budget import TimeBudget
from greater_fast.search.ensemble import Models, members
from greater_fast.search.judge import Judge


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run is asked for: `splits` reads the rows, by settings; `config` may have no day."""

    sources: Sequence[Any]
    splits: Callable[[Config], Splits]
    prompt: str
    config: Config
    functions: Functions
    progress: bool


def sit(asked: Asked, directory: RunDirectory, begun: float, ranks: Ranks) -> Result:
    """Run what is asked for in an open folder, from where the run that it holds has come to.

    `begun` is when it was asked for, by the monotonic clock.

    Raises:
        ValueError: as of `optimize`, and where something that decides the result is not as it was.
    """
    saved = directory.saved = ranks.from_first(directory.saved)
    given, functions, notes = asked.config, asked.functions, tuple[str, ...]()
    names = ranks.from_first(functions.names)
    with told(asked.progress and ranks.is_first, num_steps=given.steps) as teller:
        if ranks.size > 1 and not given.tensor_parallel:
            teller.say(f"rows are dealt to {ranks.size} processes")
        with checking_input():
            day = saved.run["config"]["template_date"] if saved else None
            given = ranks.from_first(dated(given, day))
            if saved:
                compare_sources(saved.run, len(asked.sources))
                notes = compare_settings(saved.run, given, saved.num_steps)
                compare_functions(saved.run, names)
            splits = ranks.by_first(lambda: asked.splits(given))
            config = placed(given, asked.sources[0], ranks)
            if saved:
                config = replace(config, extractor=saved.run["extractor"])
            prepared = prepare(asked.sources, splits, asked.prompt, config)
            prepared = prepared.measured_by(functions.metric)
            examples = _examples(prepared)
            rows = _rows_identity(prepared, ranks)
            if saved:
                compare_examples(saved.examples, examples)
                compare_layout(saved.run, rows)
            teller.keep(f"run directory: {directory.path}")
            held = _held(saved, given, prepared.device)
            models, memory, own_notes = make_ready(
                asked.sources, prepared, config, functions.loss, teller, held
            )
            identity = {**_identity(models, prepared, ranks), **rows}
            if saved:
                compare_identity(saved.run, identity)
                notes += _resumed_notes(saved, identity, models, config)
        run = {
            "config": given.to_dict(),
            "source": [_path_or_name(source) for source in asked.sources],
            "engines": [choices_of(own) for own in members(models)],
            "engines_device": prepared.device,
        }
        for note in directory.notes:
            teller.keep(note)
        if saved:
            notes = tuple(dict.fromkeys((*saved.run["notes"], *notes, *directory.notes)))
            directory.go_on({**run, "notes": notes})
        else:
            notes = (*own_notes, *_judge_notes(functions.judge), *directory.notes)
            layouts = prepared.layouts["train"]
            directory.begin(
                {
                    **identity,
                    **names,
                    **run,
                    "extractor": prepared.extractor.in_config(),
                    "columns": dict(prepared.splits.columns),
                    "readings": list(prepared.splits.readings),
                    "rendered_example": layouts.rendered(0, layouts.prompt_ids),
                    "metric": name_of_metric(layouts.metric),
                    "seed": given.seed,
                    "memory_plan": memory.to_dict(),
                    "notes": notes,
                },
                examples,
            )
        seconds = saved.clock.get("seconds", 0.0) if saved else 0.0
        budget = TimeBudget(config.minutes, begun - seconds, ranks)
        job = Run(models, prepared.layouts, config, directory, notes, functions)
        return followed(
            functions.on_step if ranks.is_first else None,
            directory.path,
            lambda: job.result(teller, budget, ranks),
        )


def saved_splits(saved: SavedRun) -> Splits:
    """The rows of a run as it wrote them down."""
    sets: dict[str, list[Example]] = {"train": [], "dev": [], "test": []}
    for values in saved.examples:
        example = Example(
            values["question"],
            values["answer"],
            tuple(values["other_answers"]),
            answers_given=tuple(values.get("answers_given", ())),
        )
        sets[values["split"]].append(example)
    train, dev, test = map(tuple, sets.values())
    unknown = SplitCounts()  # what was dropped to get there stands in the run's notes
    return Splits(train, dev, test, unknown, unknown, unknown, ())


def _examples(prepared: Prepared) -> list[dict[str, Any]]:
    """All rows as they are written down."""
    return [
        {
            "split": name,
            "question": row.example.question,
            "answer": row.example.answer,
            "other_answers": list(row.example.other_answers),
            "answers_given": list(row.example.answers_given),
        }
        for name, rows in prepared.layouts.items()
        for row in rows.rows
    ]


def _held(saved: SavedRun | None, given: Config, device: str) -> list[dict[str, Any]]:
    """What the engines of a run were made with, but for settings that are others now.

    On another device nothing is held: what was found out there is of that one.
    """
    if saved is None:
        return []
    before = saved.run.get("engines_device", saved.run["device"])
    if torch.device(device).type != torch.device(before).type:
        return []
    changed = {name for name in OF_MEMORY if getattr(given, name) != saved.run["config"][name]}
    return [
        {name: value for name, value in choices.items() if name not in changed}
        for choices in saved.run["engines"]
    ]


def _rows_identity(prepared: Prepared, ranks: Ranks) -> dict[str, Any]:
    """What a run is known by but its model: its prompt, its rows, and how many processes it has."""
    train = prepared.layouts["train"]
    return {
        "prompt": train.prompt_text(train.prompt_ids),
        "layout": layout_digest(prepared.layouts),
        "num_ranks": ranks.size,
    }


def _identity(models: Models, prepared: Prepared, ranks: Ranks) -> dict[str, Any]:
    """What a run's models are known by."""
    return {
        **described(models),
        "weights": ranks.by_first(lambda: [weights_digest(own.lm) for own in members(models)]),
        "model_config": [config_digest(own.lm) for own in members(models)],
        "end_ids": [ending_ids(own.lm, prepared.layouts) for own in members(models)],
    }


def _resumed_notes(
    saved: SavedRun, identity: dict[str, Any], models: Models, config: Config
) -> tuple[str, ...]:
    """Lines on why a run that was interrupted may not come to the bits of one that was not."""
    notes = surroundings_notes(saved.run, {**identity, **surroundings()})
    if saved.state is not None and not all(map(is_batch_invariant, members(models))):
        notes += (
            "resumed, with an engine by which a row's bits depend on what is computed beside it: "
            "where two tokens are nearly as likely, the result may be another than in one go",
        )
    if saved.state is not None and _divides_by_memory(models, config):
        notes += (
            "resumed on a GPU: how many rows the gradient takes at a time follows from the memory "
            "that is free, and its last bits from that; with gradient_batch_tokens set it is the "
            "same number in every sitting",
        )
    return notes


def _divides_by_memory(models: Models, config: Config) -> bool:
    """Whether the gradient is taken of as many rows at a time as a GPU has room for just then."""
    return (
        config.shortlist == "gradient"
        and config.gradient_batch_tokens is None
        and any(own.lm.device.type == "cuda" for own in members(models))
    )


def _path_or_name(source: Any) -> str | None:
    """Where a model is found again, wherever one is then; None of a loaded one."""
    if not isinstance(source, str | Path):
        return None
    try:
        path = Path(source).expanduser()
        return str(path.absolute()) if path.exists() else str(source)
    except (OSError, RuntimeError):
        return str(source)


def _judge_notes(judge: Judge | None) -> tuple[str, ...]:
    """A line that names who chooses the prompt, if it is not for the development rows."""
    return () if judge is None else (f"the prompt is chosen by: {name_of(judge)}",)
