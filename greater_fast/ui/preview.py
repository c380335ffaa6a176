"""What the rows of a dropped file become, told before a run: read, split, laid out, planned for."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace

from greater_fast.examples.data import Examples, load_examples
from greater_fast.examples.loading.columns import ColumnNames, find_columns
from greater_fast.examples.loading.nested import flat_rows
from greater_fast.examples.loading.questions import told_apart
from greater_fast.examples.readers import read_rows
from greater_fast.model.byte_sizes import format_bytes
from greater_fast.runs.prepare import as_config, check_prompt, prepare, read_splits
from greater_fast.runs.timing.work import Work
from greater_fast.runs.visible import described
from greater_fast.ui.form import Form

NUM_SHOWN = 5  # rows


@dataclass(frozen=True, slots=True)
class Preview:
    """What was found, as far as it came; `problem` says what is in the way of a run, if anything.

    `columns` are the file's, each with what it is taken for; `rows` the first questions and
    answers. `notes` tell of splits, extractor and metric, `reads` is a row as the model reads it,
    `needs` has name, size and origin of each part of the memory.
    """

    num_rows: int = 0
    columns: tuple[tuple[str, str], ...] = ()
    rows: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    reads: str = ""
    needs: tuple[tuple[str, str, str], ...] = ()
    verdict: tuple[str, ...] = ()
    problem: str = ""


def preview(form: Form) -> Preview:
    """What the form's rows become; without a model, how they are read alone. Never raises."""
    seen = Preview()
    try:
        if form.data is None:
            raise ValueError("no rows: drop a data file")
        train = load_examples(form.data, form.columns)
        seen = replace(
            seen,
            num_rows=len(train),
            columns=_columns(form),
            rows=tuple((row.question, row.answer) for row in train[:NUM_SHOWN]),
            notes=train.notes,
        )
        if form.model.strip():
            seen = _with_plan(seen, form, train)
    except Exception as error:  # whatever it is, the page shows it
        problem = str(error) if isinstance(error, ValueError) else described(error)
        seen = replace(seen, problem=problem)
    return seen


def preview_apart(form: Form, look: Callable[[Form], Preview] = preview) -> Preview:
    """The same in a process of its own: one that a model or a file ends, or that takes a GPU's
    memory, is not the page's.
    """  # noqa: D205 (one sentence)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        try:
            return pool.submit(look, form).result()
        except BrokenProcessPool:
            return Preview(
                problem="the process that read the rows was ended, as the system does where memory "
                "runs out: try a smaller file"
            )


def _columns(form: Form) -> tuple[tuple[str, str], ...]:
    """Each column of the data file, and what it is taken for."""
    rows, _ = flat_rows(read_rows(form.data), "data", form.columns)
    names = ColumnNames(dict.fromkeys(itertools.chain.from_iterable(rows)), "data")
    found = told_apart(rows, find_columns(names, form.columns or {}, None))
    roles: dict[str | None, str] = {
        **dict.fromkeys((*found.before, *found.after), "part of the question"),
        **dict.fromkeys((*found.options, *found.wrong), "options"),
        **dict.fromkeys(found.more_answers, "further answers"),
        found.question: "question",
        found.answer: "answer",
    }
    return tuple((str(name), roles.get(name, "not read")) for name in names.found)


def _with_plan(seen: Preview, form: Form, train: Examples) -> Preview:
    """What was seen, with splits, extractor and the plan of the memory."""
    config = as_config(form.config)
    check_prompt(form.prompt)
    test = load_examples(form.test, form.columns) if form.test else None
    splits = read_splits(train, None, test, config)
    prepared = prepare([form.model.strip()], splits, form.prompt, config)
    rows = prepared.layouts["train"]
    seen = replace(seen, notes=prepared.notes, reads=rows.rendered(0, rows.prompt_ids))
    memory = prepared.memory(config)
    fits = f"{'fits' if memory.fits else 'does not fit'} into {format_bytes(memory.total_bytes)}"
    return replace(
        seen,
        needs=tuple((need.name, format_bytes(need.num_bytes), need.how) for need in memory.needs),
        verdict=(
            f"{format_bytes(memory.needed_bytes)} of memory on {prepared.device}: it {fits}",
            *memory.advice,
            Work.of(prepared.layouts, config).describe(),
        ),
    )
