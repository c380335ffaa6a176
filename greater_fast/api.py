"""`optimize` and `evaluate`: from a model, a file and a prompt to a result."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greater_fast.config import Config
from greater_fast.examples.data import load_examples
from greater_fast.examples.golds import describe_changes, in_one_form, spellings
from greater_fast.examples.layout import build_layouts
from greater_fast.gradients.example_loss import AnswerLoss, try_loss
from greater_fast.memory.budget import MemoryPlan
from greater_fast.model.lm import load_lm
from greater_fast.rollouts.choose import make_engine
from greater_fast.runs.directory import RunDirectory
from greater_fast.runs.evaluation import Evaluation, compare, cut_off_notes, evaluate_prompt
from greater_fast.runs.prepare import (
    as_config,
    check_prompt,
    choose_extractor,
    prepare,
    read_splits,
)
from greater_fast.runs.result import Report, Result
from greater_fast.runs.run import Run
from greater_fast.search.optimizer import OnStep

DEFAULT_PROMPT = (
    "Use proper logical reasoning and think step by step. Finally give the actual correct answer."
)
_log = logging.getLogger("greater_fast")


def optimize(  # noqa: PLR0913 (one entry point, six of its arguments by keyword)
    model: Any,
    train: Any,
    dev: Any = None,
    *,
    prompt: str = DEFAULT_PROMPT,
    test: Any = None,
    config: Config | Mapping[str, Any] | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    on_step: OnStep | None = None,
    loss: AnswerLoss | None = None,
) -> Result:
    """Optimise a prompt for a model on examples (GReaTer).

    Args:
        model: what `load_lm` takes: a hub name, a folder, a GGUF file, a loaded model, an `LM`.
        train: what `load_examples` takes; the prompt is searched on `config.num_train` of its rows.
        dev: rows on which the final prompt is chosen; split off from `train` if left out.
        prompt: the prompt to start from, written as it stands beside the question.
        test: rows for a last comparison of the chosen with the initial prompt; never searched on.
        config: settings, or a mapping of some of them.
        run_dir: folder for the run, by default a new one under `runs`.
        on_step: called with every finished `Step`; a true value from it ends the search.
        loss: what the gradient is of, in place of the answer's cross-entropy: a function of the
            logits [A, V] (at least float32) that predict an answer's tokens, and of their ids [A],
            to a scalar. It shapes the shortlist alone: prompts are chosen by `config.objective`.

    Returns:
        The result. Ctrl-C ends the run with the best prompt so far, `stopped="interrupted"`.

    Raises:
        ValueError: input that cannot work, before any step; the message says what to change.
        FloatingPointError: a loss or gradient is not finite; what was found so far is in `run_dir`.
        MemoryError: the gradient of one example does not fit the memory.
    """
    config = as_config(config)
    check_prompt(prompt)
    directory = RunDirectory(run_dir)
    splits = read_splits(train, dev, test, config)
    prepared = prepare(model, splits, prompt, config)
    layouts, extractor = prepared.layouts, prepared.extractor
    memory = prepared.memory(config)
    _refuse_or_warn(memory, prepared.device)
    _log.info("%s", "\n".join(("memory plan", *memory.table, memory.verdict)))
    _log.info("loading %s", model if isinstance(model, str) else "the model")
    lm = prepared.lm
    if not prepared.is_loaded:
        lm = load_lm(model, config.device, config.dtype, lm.tokenizer)
    if loss is not None:
        try_loss(loss, lm, [row.answer_ids for row in layouts["train"].rows])
    longest = max(rows.longest_sequence(config) for rows in layouts.values())
    engine, engine_note = make_engine(lm, memory.settled(config), longest)
    notes = (*lm.notes, *prepared.notes, memory.verdict, engine_note)
    if loss is not None:
        notes += (f"gradient of: {getattr(loss, '__name__', type(loss).__name__)}",)
    for note in notes:
        _log.info("%s", note)
    directory.begin(
        {
            "model": lm.name,
            "device": str(lm.device),
            "dtype": str(lm.dtype).removeprefix("torch."),
            "prompt": layouts["train"].prompt_text(layouts["train"].prompt_ids),
            "extractor": extractor.in_config(),
            "rendered_example": layouts["train"].rendered(0, layouts["train"].prompt_ids),
            "config": config.to_dict(),
            "seed": config.seed,
            "memory_plan": memory.to_dict(),
            "notes": notes,
        },
        [
            {"split": name, **dataclasses.asdict(row.example)}
            for name, rows in layouts.items()
            for row in rows.rows
        ],
    )
    return Run(engine, layouts, config, directory, notes, loss).result(on_step)


def plan(  # noqa: PLR0913 (as optimize)
    model: Any,
    train: Any,
    dev: Any = None,
    *,
    prompt: str = DEFAULT_PROMPT,
    test: Any = None,
    config: Config | Mapping[str, Any] | None = None,
    gpu_memory: int | None = None,
) -> MemoryPlan:
    """What `optimize` with the same arguments will take of the memory; no weights are loaded.

    `gpu_memory` is that of a GPU in bytes, be there one or not; without it, it is planned for the
    device that the run would take.

    Raises:
        ValueError: input that cannot work, as of `optimize`; the device is no GPU.
    """
    config = as_config(config)
    check_prompt(prompt)
    if gpu_memory is not None and config.device == "cpu":
        raise ValueError("gpu_memory: a run on device cpu takes none: leave one of the two out")
    device = None if gpu_memory is None else "cuda"
    splits = read_splits(train, dev, test, config)
    return prepare(model, splits, prompt, config, device).memory(config, gpu_memory)


def evaluate(
    model: Any,
    data: Any,
    *,
    prompt: str,
    against: str | None = None,
    config: Config | Mapping[str, Any] | None = None,
    records: str | os.PathLike[str] | None = None,
) -> Report:
    """Accuracy of a prompt on all rows of `data`, and beside another prompt's on the same rows.

    Args:
        model: what `load_lm` takes.
        data: what `load_examples` takes.
        prompt: the prompt to measure.
        against: a second prompt for a paired comparison.
        config: settings; reasoning limit, placement, extractor, template and batch size matter.
        records: a JSONL file for question, gold, prediction and reasoning of each row.

    Raises:
        ValueError: input that cannot work, before any generation.
    """
    config = as_config(config)
    if records is not None and Path(records).exists():
        raise ValueError(f"records: {records} exists already: name another file, or remove it")
    for text in (prompt, *([] if against is None else [against])):
        check_prompt(text)
    rows = load_examples(data, template=config.template)
    examples = in_one_form(rows, spellings(gold for row in rows for gold in row.answers))
    extractor = choose_extractor(config, examples)
    lm = load_lm(model, config.device, config.dtype)
    laid_out = [
        build_layouts(lm, examples, text, extractor, config)
        for text in (prompt, against)
        if text is not None
    ]
    engine, note = make_engine(lm, config, max(rows.longest_sequence(config) for rows in laid_out))
    evaluations = []
    for layouts in laid_out:
        _log.info("evaluating a prompt on %d rows", len(layouts))
        evaluation = evaluate_prompt(engine, layouts, layouts.prompt_ids, config)
        evaluations.append(evaluation)
        if records is not None:
            _write_records(Path(records), evaluation)
    second = evaluations[1] if against is not None else None
    comparison = compare(evaluations[0], second) if second else None
    asked = laid_out[0].extractor
    notes = (
        *rows.notes,
        *lm.notes,
        *describe_changes(rows, examples),
        *((asked.describe(),) if asked.lead else ()),
        *laid_out[0].notes,
        note,
        *cut_off_notes("rows", evaluations[0], config),
    )
    return Report(evaluations[0], second, comparison, extractor.in_config(), notes)


def _write_records(path: Path, evaluation: Evaluation) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for row in evaluation.rows:
            line = {"prompt": evaluation.prompt, **dataclasses.asdict(row)}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _refuse_or_warn(memory: MemoryPlan, device: str) -> None:
    """Refuse a run that a GPU cannot hold; on a CPU, where there is swap, only warn."""
    if memory.fits:
        return
    lines = "; ".join((memory.verdict, *memory.advice))
    message = f"the run does not fit the memory of {device}; {lines}"
    if device != "cpu":
        raise ValueError(message)
    warnings.warn(message, RuntimeWarning, stacklevel=3)
