"""`optimize` and `evaluate`: from a model, a file and a prompt to a result."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greater_fast.config import Config
from greater_fast.data import load_examples
from greater_fast.engine import make_engine
from greater_fast.evaluation import Evaluation, compare, evaluate_prompt
from greater_fast.example_loss import AnswerLoss, try_loss
from greater_fast.extractor import Extractor, derive_extractor, make_extractor
from greater_fast.layout import Layouts, build_layouts
from greater_fast.lm import LM, load_lm
from greater_fast.optimizer import OnStep
from greater_fast.result import Report, Result
from greater_fast.run import Run
from greater_fast.run_dir import RunDirectory
from greater_fast.splits import Splits, make_splits

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
    config = _as_config(config)
    _check_prompt(prompt)
    directory = RunDirectory(run_dir)
    splits = make_splits(
        load_examples(train),
        None if dev is None else load_examples(dev),
        None if test is None else load_examples(test),
        num_train=config.num_train,
        num_dev=config.num_dev,
        seed=config.seed,
    )
    extractor = _extractor(config, [e.answer for e in (*splits.train, *splits.dev)])
    _log.info("loading %s", model if isinstance(model, str) else "the model")
    lm = load_lm(model, config.device, config.dtype)
    layouts = _layouts(lm, splits, prompt, extractor, config)
    if loss is not None:
        try_loss(loss, lm, layouts["train"].rows[0].answer_ids)
    longest = max(rows.longest_sequence(config) for rows in layouts.values())
    engine, engine_note = make_engine(lm, config, longest)
    notes = (*_notes(splits, extractor, layouts), engine_note)
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
            "config": config.to_dict(),
            "seed": config.seed,
            "notes": notes,
        },
        [
            {"split": name, **dataclasses.asdict(row.example)}
            for name, rows in layouts.items()
            for row in rows.rows
        ],
    )
    return Run(engine, layouts, config, directory, notes, loss).result(on_step)


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
    config = _as_config(config)
    if records is not None and Path(records).exists():
        raise ValueError(f"records: {records} exists already: name another file, or remove it")
    for text in (prompt, *([] if against is None else [against])):
        _check_prompt(text)
    examples = load_examples(data)
    extractor = _extractor(config, [e.answer for e in examples])
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
    return Report(
        evaluations[0], second, comparison, extractor.in_config(), (*laid_out[0].notes, note)
    )


def _as_config(config: Config | Mapping[str, Any] | None) -> Config:
    if isinstance(config, Config):
        return config
    if config is None:
        return Config()
    if isinstance(config, Mapping):
        return Config.from_mapping(config)
    raise ValueError(f"config: got {type(config).__name__}, expected a Config or a mapping")


def _check_prompt(prompt: object) -> None:
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"prompt: got {prompt!r}, expected a text of at least 2 tokens")


def _extractor(config: Config, answers: list[str]) -> Extractor:
    if config.extractor is not None:
        return make_extractor(config.extractor)
    return derive_extractor(answers)


def _layouts(
    lm: LM, splits: Splits, prompt: str, extractor: Extractor, config: Config
) -> dict[str, Layouts]:
    """Layouts of each split that has rows.

    Raises:
        ValueError: among others, the prompt changes its ids on the way through text and back.
    """
    sets = {"train": splits.train, "dev": splits.dev, "test": splits.test}
    layouts: dict[str, Layouts] = {}
    longest_answer = 0
    for name, examples in sets.items():
        if not examples:
            continue
        try:
            layouts[name] = build_layouts(lm, examples, prompt, extractor, config, longest_answer)
        except ValueError as error:
            raise ValueError(f"{name} rows: {error}") from error
        longest_answer = layouts["train"].longest_answer
    train = layouts["train"]
    if len(train) < 2:
        raise ValueError(f"{len(train)} training row is left, expected 2 at least: {train.notes}")
    for name, other in layouts.items():
        if other.prompt_ids != train.prompt_ids:
            raise ValueError(f"the prompt has other tokens on the {name} rows than in training")
    return layouts


def _notes(splits: Splits, extractor: Extractor, layouts: Mapping[str, Layouts]) -> tuple[str, ...]:
    """What a user should know of the rows and the extractor."""
    dropped = [f"{name}: {note}" for name, rows in layouts.items() for note in rows.notes]
    return (*splits.report, *dropped, extractor.describe())


def _write_records(path: Path, evaluation: Evaluation) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for row in evaluation.rows:
            line = {"prompt": evaluation.prompt, **dataclasses.asdict(row)}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
