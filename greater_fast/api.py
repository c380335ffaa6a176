"""`optimize`, `plan` and `evaluate`: from a model, a file and a prompt to a result."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from greater_fast.config import Config
from greater_fast.examples.data import load_examples
from greater_fast.examples.golds import describe_changes, in_one_form, spellings
from greater_fast.examples.layout import build_layouts
from greater_fast.examples.loading.languages import language_note
from greater_fast.examples.metrics import Metric
from greater_fast.gradients.example_loss import AnswerLoss
from greater_fast.model.bars import without_bars
from greater_fast.model.byte_sizes import memory_errors_explained
from greater_fast.ranks import ALONE, join
from greater_fast.runs.directory import RunDirectory
from greater_fast.runs.evaluation import cut_off_notes
from greater_fast.runs.input import (
    checking_input,
    for_evaluation,
    idle_settings,
    measured_by,
    metric_note,
    notes_on_texts,
    with_metric,
)
from greater_fast.runs.interrupts import signals_heard
from greater_fast.runs.models.alike import as_models, common_layouts
from greater_fast.runs.models.mean_evaluation import compare_models, evaluate_models
from greater_fast.runs.models.outlines import outlined
from greater_fast.runs.models.ready import (
    engines_of,
    load_models,
    make_models,
    make_ready,
    notes_of,
)
from greater_fast.runs.on_ranks import NoDirectory, on_all_ranks, placed
from greater_fast.runs.prepare import (
    as_config,
    check_prompt,
    checked_config,
    choose_extractor,
    prepare,
    read_splits,
)
from greater_fast.runs.progress import told
from greater_fast.runs.result import Report, Result
from greater_fast.runs.rows.records import Records, row_writer
from greater_fast.runs.sitting.functions import Functions
from greater_fast.runs.sitting.sit import Asked, sit
from greater_fast.runs.timing.run_plan import RunPlan, check_measure, measured
from greater_fast.runs.timing.time_budget import TimeBudget
from greater_fast.runs.timing.work import Work
from greater_fast.search.judge import Judge
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
    metric: Metric | str | None = None,
    judge: Judge | None = None,
    progress: bool = True,
    resume: bool = False,
) -> Result:
    """Optimise a prompt for a model on examples (GReaTer).

    Args:
        model: what `load_lm` takes: a hub name, a folder, a GGUF file, a loaded model, an `LM`; or
            a list of several that share a tokenizer: the prompt is searched for all of them.
        train: what `load_examples` takes; the prompt is searched on `config.num_train` of its rows.
        dev: rows on which the final prompt is chosen; split off from `train` if left out.
        prompt: the prompt to start from, as it stands beside the question; outer white space goes.
        test: rows for a last comparison of the chosen with the initial prompt; never searched on.
        config: settings, or a mapping of some of them.
        run_dir: folder for the run, by default a new one under `runs`; it must hold no other run.
        on_step: called with every finished `Step`; a true value from it ends the search. One of
            `greater_fast.trackers` shows the run elsewhere.
        loss: what the gradient is of, in place of the answer's cross-entropy: a function of the
            logits [A, V] (at least float32) that predict an answer's tokens, and of their ids [A],
            to a scalar. It shapes the shortlist alone: prompts are chosen by `config.objective`.
        metric: what an answer is worth: a function of the predicted text and its `Example` to a
            number from 0 to 1, or a name as of `config.metric`. It is called once for each answer
            that is generated, by the process that holds the row. By objective error the search
            generates answers too, and counts 1 - metric; by objective loss it does not.
        judge: who chooses the prompt, in place of the development rows: a function of the texts of
            the best prompts and the initial one to a number for each, the more the better; of
            equals the initial one is kept. It is called once, when the search has ended. Only the
            chosen and the initial prompt are then measured on the development rows.
        progress: tell on standard error what is done: by a bar in a terminal or a notebook, by a
            line a step elsewhere.
        resume: go on with the run that `run_dir` holds, if it holds one, with the same arguments;
            `config.steps` may be more than before (see `resume`).

    Returns:
        The result. Ctrl-C ends the run with the best prompt so far, `stopped="interrupted"`;
        SIGTERM and SIGHUP end the process, once the result so far is written, by SystemExit with
        128 + the signal's number. A second signal stops at once, and harms no file. What cannot be
        written to `run_dir` is warned of, and does not end the run. With `config.minutes` the
        search ends in time for finals and test, `stopped="out of time"`: how far it comes depends
        on the machine.

    Raises:
        ValueError: input that cannot work, before any step; the message says what to change.
        FloatingPointError: a loss or gradient is not finite.
        MemoryError: the gradient of one example, or a step of rollouts, does not fit the memory.

    These two, a `judge` that gives something else than a finite number for each prompt, and
    whatever `on_step`, `loss`, `metric` or `judge` raises, end the run once its result so far is
    written; notes on the exception name the best prompt and the folder.

    Under torchrun every process calls this alike and gets the same result. Settings, rows and what
    `on_step` says are rank 0's, which alone writes and tells; each loads the model.
    """
    begun = time.monotonic()
    ranks = join()
    functions = Functions(on_step, loss, metric, judge)
    with checking_input():
        sources = as_models(model, ranks)
        given = ranks.from_first(with_metric(checked_config(config), metric))
        check_prompt(prompt)
        functions.check(given)
        if resume and run_dir is None:
            raise ValueError("run_dir: got none to go on in: name the folder of the run")
        directory = RunDirectory(run_dir, resume=resume) if ranks.is_first else NoDirectory()
    with signals_heard(), directory:
        splits = partial(read_splits, train, dev, test)
        asked = Asked(sources, splits, prompt, given, functions, progress)
        return sit(asked, directory, begun, ranks)


def plan(  # noqa: PLR0913 (as optimize)
    model: Any,
    train: Any,
    dev: Any = None,
    *,
    prompt: str = DEFAULT_PROMPT,
    test: Any = None,
    config: Config | Mapping[str, Any] | None = None,
    metric: Metric | str | None = None,
    gpu_memory: int | None = None,
    measure: int = 0,
) -> RunPlan:
    """What `optimize` with the same arguments will take: memory, work and, measured, time.

    `gpu_memory` is that of a GPU in bytes, be there one or not; without it, it is planned for the
    device that the run would take. No weights are loaded, unless the first `measure` steps are to
    be taken to tell the time, and what `config.minutes` leaves for the search; where the memory is
    not enough, they are not. A `metric` is called for the answers of these steps alone.

    Raises:
        ValueError: input that cannot work, as of `optimize`.
    """
    begun = time.monotonic()
    with checking_input():
        config = with_metric(as_config(config), metric)
        check_prompt(prompt)
        if gpu_memory is not None and config.device == "cpu":
            raise ValueError("gpu_memory: a run on device cpu takes none: leave one of the two out")
        check_measure(measure, gpu_memory)
        device = None if gpu_memory is None else "cuda"
        splits, sources = read_splits(train, dev, test, config), as_models(model, ALONE)
        prepared = prepare(sources, splits, prompt, config, device).measured_by(metric)
        memory = prepared.memory(config, gpu_memory)
    work = Work.of(prepared.layouts, config).of_models(len(sources))
    estimate = shares = None
    if measure and memory.fits:
        with told(True, num_steps=measure) as teller:
            with checking_input():
                models, memory, _ = make_ready(sources, prepared, config, None, teller)
            with memory_errors_explained(models.lm.device):
                watch = TimeBudget(config.minutes, begun)
                given = (models, prepared.layouts, config, measure)
                estimate, shares = measured(*given, teller.step, watch)
    return RunPlan.of(memory, work, estimate, shares)


@on_all_ranks
def evaluate(  # noqa: PLR0913 (as optimize)
    model: Any,
    data: Any,
    *,
    prompt: str,
    against: str | None = None,
    config: Config | Mapping[str, Any] | None = None,
    records: str | os.PathLike[str] | None = None,
    metric: Metric | str | None = None,
    progress: bool = True,
) -> Report:
    """Accuracy of a prompt on all rows of `data`, and beside another prompt's on the same rows.

    Args:
        model: what `load_lm` takes; or a list of several, each measured by itself, and their mean.
        data: what `load_examples` takes.
        prompt: the prompt to measure.
        against: a second prompt for a paired comparison.
        config: settings; those of a search, `minutes` among them, are ignored, which a note says.
        records: a new JSONL file for question, gold, prediction and reasoning of each row, written
            as rows end. What cannot be written is warned of, and does not end the evaluation.
        metric: what an answer is worth, as of `optimize`; the accuracy is then its mean.
        progress: tell on standard error what is done: by a bar in a terminal or a notebook, by a
            line a prompt elsewhere.

    Raises:
        ValueError: input that cannot work, before any generation; a metric gives something else
            than a number from 0 to 1, with the row in the message.

    Under torchrun it works as `optimize` does.
    """
    ranks = join()
    with contextlib.ExitStack() as stack:
        stack.enter_context(signals_heard())
        if not progress:
            stack.enter_context(without_bars())
        with checking_input():
            sources = as_models(model, ranks)
            given, idle = for_evaluation(ranks.from_first(with_metric(as_config(config), metric)))
            prompts = [prompt] if against is None else [prompt, against]
            for text in prompts:
                check_prompt(text)
            file = None
            if records is not None and ranks.is_first:
                file = stack.enter_context(Records(records))
            rows = ranks.by_first(lambda: load_examples(data, template=given.template))
            config = placed(given, sources[0], ranks)
            examples = in_one_form(rows, spellings(gold for row in rows for gold in row.answers))
            extractor = choose_extractor(config, examples)
            outlines, place = outlined(sources, config)
            laid_out = [
                measured_by(
                    metric,
                    common_layouts(
                        outlines,
                        [build_layouts(lm, examples, text, extractor, config) for lm in outlines],
                    ),
                )
                for text in prompts
            ]
            lms = load_models(sources, outlines, place, config)
            longest = max(layouts.longest_sequence(config) for layouts in laid_out)
            most = max(map(len, laid_out))
            models, note = make_models(lms, config, longest, most, ranks)
        teller = stack.enter_context(
            told(progress and ranks.is_first, num_rows=len(lms) * sum(map(len, laid_out)))
        )
        evaluations = []
        for layouts in laid_out:
            teller.say(f"evaluating a prompt on {len(layouts)} rows")
            write = row_writer(layouts.prompt_text(layouts.prompt_ids), file, teller)
            with memory_errors_explained(models.lm.device):
                evaluations.append(
                    evaluate_models(models, layouts, layouts.prompt_ids, config, write)
                )
    asked = laid_out[0].extractor
    notes = (
        *rows.notes,
        *notes_of(models),
        *notes_on_texts(prompts, given),
        *describe_changes(rows, examples),
        *((asked.describe(),) if asked.joint else ()),
        *language_note(asked, examples),
        *laid_out[0].notes,
        *metric_note(laid_out[0]),
        *idle,
        *idle_settings(config, engines_of(models), "an evaluation"),
        note,
        *(
            line
            for number, evaluation in enumerate(evaluations, 1)
            for line in cut_off_notes(
                f"rows, prompt {number}", evaluation.num_cut_off, len(evaluation.rows), config
            )
        ),
    )
    if file is not None and file.problem:
        notes += (file.problem,)
    second = evaluations[1] if against is not None else None
    comparison = compare_models(evaluations[0], second) if second else None
    return Report(evaluations[0], second, comparison, extractor.in_config(), notes)
