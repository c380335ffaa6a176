"""`optimize`, `plan` and `evaluate`: from a model, a file and a prompt to a result."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from greater_fast.config import Config
from greater_fast.engine import Engine
from greater_fast.examples.data import load_examples
from greater_fast.examples.golds import describe_changes, in_one_form, spellings
from greater_fast.examples.layout import build_layouts
from greater_fast.gradients.example_loss import AnswerLoss, try_loss
from greater_fast.gradients.gradient_pass import check_gradient
from greater_fast.memory.budget import MemoryPlan, RowLengths
from greater_fast.model.byte_sizes import memory_errors_explained
from greater_fast.model.lm import load_lm
from greater_fast.model.parallel.loading import sharing_ranks
from greater_fast.ranks import join
from greater_fast.rollouts.distributed import make_engine_of
from greater_fast.runs.directory import RunDirectory
from greater_fast.runs.evaluation import RowRecord, compare, cut_off_notes, evaluate_prompt
from greater_fast.runs.input import check_callable, checking_input
from greater_fast.runs.on_ranks import NoDirectory, on_all_ranks, placed
from greater_fast.runs.prepare import (
    Prepared,
    as_config,
    check_placement,
    check_prompt,
    choose_extractor,
    prepare,
    read_splits,
    refuse_or_warn,
)
from greater_fast.runs.progress import Teller, told
from greater_fast.runs.records import Records
from greater_fast.runs.result import Report, Result
from greater_fast.runs.run import Run
from greater_fast.runs.timing.run_plan import RunPlan, check_measure, measured
from greater_fast.runs.timing.time_budget import TimeBudget
from greater_fast.runs.timing.work import Work
from greater_fast.search.optimizer import OnStep

DEFAULT_PROMPT = (
    "Use proper logical reasoning and think step by step. Finally give the actual correct answer."
)


@on_all_ranks
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
    progress: bool = True,
) -> Result:
    """Optimise a prompt for a model on examples (GReaTer).

    Args:
        model: what `load_lm` takes: a hub name, a folder, a GGUF file, a loaded model, an `LM`.
        train: what `load_examples` takes; the prompt is searched on `config.num_train` of its rows.
        dev: rows on which the final prompt is chosen; split off from `train` if left out.
        prompt: the prompt to start from, written as it stands beside the question.
        test: rows for a last comparison of the chosen with the initial prompt; never searched on.
        config: settings, or a mapping of some of them.
        run_dir: folder for the run, by default a new one under `runs`; it must hold no other run.
        on_step: called with every finished `Step`; a true value from it ends the search.
        loss: what the gradient is of, in place of the answer's cross-entropy: a function of the
            logits [A, V] (at least float32) that predict an answer's tokens, and of their ids [A],
            to a scalar. It shapes the shortlist alone: prompts are chosen by `config.objective`.
        progress: tell on standard error what is done: by a bar in a terminal or a notebook, by a
            line a step elsewhere.

    Returns:
        The result. Ctrl-C ends the run with the best prompt so far, `stopped="interrupted"`;
        SIGTERM ends the process, once the result so far is written. What cannot be written to
        `run_dir` is warned of, and does not end the run. With `config.minutes` the search ends in
        time for finals and test, `stopped="out of time"`: how far it comes depends on the machine.

    Raises:
        ValueError: input that cannot work, before any step; the message says what to change.
        FloatingPointError: a loss or gradient is not finite.
        MemoryError: the gradient of one example, or a step of rollouts, does not fit the memory.

    These two, and whatever `on_step` or `loss` raises, end the run once its result so far is
    written; notes on the exception name the best prompt and the folder.

    Under torchrun every process calls this alike and gets the same result. Settings, rows and what
    `on_step` says are rank 0's, which alone writes and tells; each loads the model.
    """
    begun = time.monotonic()
    ranks = join()
    with checking_input():
        given = config = ranks.from_first(as_config(config))
        check_prompt(prompt)
        if on_step is not None:
            check_callable("on_step", on_step, ("a step",))
        if loss is not None:
            check_callable("loss", loss, ("an answer's logits [A, V]", "its ids [A]"))
        directory = RunDirectory(run_dir) if ranks.is_first else NoDirectory()
    with directory, told(progress and ranks.is_first, num_steps=config.steps) as teller:
        if ranks.size > 1 and not config.tensor_parallel:
            teller.say(f"rows are dealt to {ranks.size} processes")
        with checking_input():
            splits = ranks.by_first(lambda: read_splits(train, dev, test, given))
            config = placed(given, model, ranks)
            prepared = prepare(model, splits, prompt, config)
            engine, memory, notes = _ready(model, prepared, config, loss, teller)
        layouts = prepared.layouts
        directory.begin(
            {
                "model": engine.lm.name,
                "device": str(engine.lm.device),
                "dtype": str(engine.lm.dtype).removeprefix("torch."),
                "prompt": layouts["train"].prompt_text(layouts["train"].prompt_ids),
                "extractor": prepared.extractor.in_config(),
                "rendered_example": layouts["train"].rendered(0, layouts["train"].prompt_ids),
                "config": given.to_dict(),
                "seed": config.seed,
                "num_ranks": ranks.size,
                "memory_plan": memory.to_dict(),
                "notes": notes,
            },
            [
                {"split": name, **dataclasses.asdict(row.example)}
                for name, rows in layouts.items()
                for row in rows.rows
            ],
        )
        run = Run(engine, layouts, config, directory, notes, loss)
        budget = TimeBudget(config.minutes, begun, ranks)
        return run.result(on_step, teller, budget, ranks)


def plan(  # noqa: PLR0913 (as optimize)
    model: Any,
    train: Any,
    dev: Any = None,
    *,
    prompt: str = DEFAULT_PROMPT,
    test: Any = None,
    config: Config | Mapping[str, Any] | None = None,
    gpu_memory: int | None = None,
    measure: int = 0,
) -> RunPlan:
    """What `optimize` with the same arguments will take: memory, work and, measured, time.

    `gpu_memory` is that of a GPU in bytes, be there one or not; without it, it is planned for the
    device that the run would take. No weights are loaded, unless the first `measure` steps are to
    be taken to tell the time; where the memory is not enough, they are not.

    Raises:
        ValueError: input that cannot work, as of `optimize`; the device is no GPU.
    """
    with checking_input():
        config = as_config(config)
        check_prompt(prompt)
        if gpu_memory is not None and config.device == "cpu":
            raise ValueError("gpu_memory: a run on device cpu takes none: leave one of the two out")
        check_measure(measure, gpu_memory)
        device = None if gpu_memory is None else "cuda"
        splits = read_splits(train, dev, test, config)
        prepared = prepare(model, splits, prompt, config, device)
        memory = prepared.memory(config, gpu_memory)
    work, estimate = Work.of(prepared.layouts, config), None
    if measure and memory.fits:
        with told(True, num_steps=measure) as teller:
            with checking_input():
                engine, memory, _ = _ready(model, prepared, config, None, teller)
            with memory_errors_explained(engine.lm.device):
                estimate = measured(engine, prepared.layouts, config, measure, teller.step)
    return RunPlan.of(memory, work, estimate)


@on_all_ranks
def evaluate(  # noqa: PLR0913 (as optimize)
    model: Any,
    data: Any,
    *,
    prompt: str,
    against: str | None = None,
    config: Config | Mapping[str, Any] | None = None,
    records: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Report:
    """Accuracy of a prompt on all rows of `data`, and beside another prompt's on the same rows.

    Args:
        model: what `load_lm` takes.
        data: what `load_examples` takes.
        prompt: the prompt to measure.
        against: a second prompt for a paired comparison.
        config: settings; reasoning limit, placement, extractor, template and batch size matter.
        records: a new JSONL file for question, gold, prediction and reasoning of each row, written
            as rows end. What cannot be written is warned of, and does not end the evaluation.
        progress: tell on standard error what is done: by a bar in a terminal or a notebook, by a
            line a prompt elsewhere.

    Raises:
        ValueError: input that cannot work, before any generation.

    Under torchrun it works as `optimize` does.
    """
    ranks = join()
    with contextlib.ExitStack() as stack:
        with checking_input():
            given = config = ranks.from_first(as_config(config))
            prompts = [prompt] if against is None else [prompt, against]
            for text in prompts:
                check_prompt(text)
            file = None
            if records is not None and ranks.is_first:
                file = stack.enter_context(Records(records))
            rows = ranks.by_first(lambda: load_examples(data, template=given.template))
            config = placed(given, model, ranks)
            examples = in_one_form(rows, spellings(gold for row in rows for gold in row.answers))
            extractor = choose_extractor(config, examples)
            lm = load_lm(model, config.device, config.dtype, ranks=sharing_ranks(config))
            check_placement(model, lm, config)
            laid_out = [build_layouts(lm, examples, text, extractor, config) for text in prompts]
            longest = max(layouts.longest_sequence(config) for layouts in laid_out)
            most = max(map(len, laid_out))
            engine, note = make_engine_of(ranks, lm, config, longest, most)
        teller = stack.enter_context(
            told(progress and ranks.is_first, num_rows=sum(map(len, laid_out)))
        )
        evaluations = []
        for layouts in laid_out:
            teller.say(f"evaluating a prompt on {len(layouts)} rows")
            write = _row_writer(layouts.prompt_text(layouts.prompt_ids), file, teller)
            with memory_errors_explained(lm.device):
                evaluations.append(
                    evaluate_prompt(engine, layouts, layouts.prompt_ids, config, None, write)
                )
    asked = laid_out[0].extractor
    notes = (
        *rows.notes,
        *lm.notes,
        *describe_changes(rows, examples),
        *((asked.describe(),) if asked.lead else ()),
        *laid_out[0].notes,
        note,
        *(
            line
            for number, evaluation in enumerate(evaluations, 1)
            for line in cut_off_notes(f"rows, prompt {number}", evaluation, config)
        ),
    )
    if file is not None and file.problem:
        notes += (file.problem,)
    second = evaluations[1] if against is not None else None
    comparison = compare(evaluations[0], second) if second else None
    return Report(evaluations[0], second, comparison, extractor.in_config(), notes)


def _row_writer(prompt: str, file: Records | None, teller: Teller) -> Callable[[RowRecord], None]:
    """What an evaluation does with each finished row."""

    def write(row: RowRecord) -> None:
        teller.row()
        if file is not None:
            file.append({"prompt": prompt, **dataclasses.asdict(row)})

    return write


def _ready(
    model: Any, prepared: Prepared, config: Config, loss: AnswerLoss | None, teller: Teller
) -> tuple[Engine, MemoryPlan, tuple[str, ...]]:
    """The engine of a run with its model loaded, the plan of its memory, and notes for the user."""
    layouts, ranks = prepared.layouts, join()
    memory = ranks.from_first(prepared.memory(config))
    refuse_or_warn(memory, prepared.device)
    teller.say(memory.verdict, "\n".join(memory.table))
    teller.say(f"loading {model if isinstance(model, str) else 'the model'}")
    lm = prepared.lm
    if not prepared.is_loaded:
        with memory_errors_explained(torch.device(prepared.device)):
            sharing = sharing_ranks(config)
            lm = load_lm(model, config.device, config.dtype, lm.tokenizer, sharing)
    if loss is not None:
        with memory_errors_explained(lm.device):
            try_loss(loss, lm, [row.answer_ids for row in layouts["train"].rows])
    lengths, settled = RowLengths.of(layouts, config), memory.settled(config)
    most = lengths.num_sequences(config)
    engine, engine_note = make_engine_of(ranks, lm, settled, lengths.longest, most)
    with memory_errors_explained(lm.device):
        gradient_notes = check_gradient(engine, config.kernels)
    notes = (*lm.notes, *prepared.notes, memory.verdict, engine_note, *gradient_notes)
    if loss is not None:
        notes += (f"gradient of: {getattr(loss, '__name__', type(loss).__name__)}",)
    for note in notes:
        teller.note(note)
    return engine, memory, notes
