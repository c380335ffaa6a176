"""A task of lm-evaluation-harness: a run's message around rows, as a YAML file, and the rows.

What a prompt, a row or an extractor says is written as a text of YAML, Jinja or a regular
expression, whatever it holds: nothing in it is read as more than that.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from greater_fast.examples.answers import compared_form, normalise_answer
from greater_fast.examples.cutting import answer_and_end, opening_of
from greater_fast.examples.data import Example, Examples, load_examples
from greater_fast.examples.extractor import Extractor
from greater_fast.examples.golds import in_one_form, spellings
from greater_fast.examples.layout import Layouts, build_layouts
from greater_fast.examples.loading.choices import check_readings
from greater_fast.examples.placing.joint import Joint
from greater_fast.export.quoting import as_jinja, as_yaml
from greater_fast.export.rendering import Rendering, num_ids_behind, rendering_of
from greater_fast.model.text.vocabulary import Vocabulary
from greater_fast.runs.directory import read_run
from greater_fast.runs.prepare import choose_extractor
from greater_fast.runs.rows.unseen import unseen
from greater_fast.runs.visible import visible
from greater_fast.runs.writer import new_path
from greater_fast.version import __version__
from greater_fast.wording import quoted

_DATE = re.compile(r"\d{4}-\d\d")
_MARK = "Q: "  # before each question, which all together could else be read as times
_QUESTION = f"{{{{question[{len(_MARK)}:]}}}}"


def export_task(
    run_dir: str | os.PathLike[str],
    data: Any,
    path: str | os.PathLike[str],
    model: str | None = None,
) -> Path:
    """Write a task that asks a run's best prompt on rows, with the rows in a JSONL file beside it.

    lm-evaluation-harness takes the file's path as the name of a task, for any of its models; with
    `GreaterLM` its `exact_match` is the accuracy of `evaluate`, row by row. It need not be
    installed here. What is to be known of the figures stands in the task's metadata, under notes.

    Args:
        run_dir: the run's folder.
        data: what `load_examples` takes; rows that the run has searched or chosen on are left out.
        path: a new file whose name ends in ".yaml"; the rows' has the same name, with ".jsonl".
        model: where the run's model is found, or which of several.

    Returns:
        The file's absolute path.

    Raises:
        ValueError: as `export_run`; a row has other ids in the rendering than in an evaluation; no
            row is new to the run; a gold answer cannot be compared as a text; there is such a file.
    """
    return write_task(run_dir, data, path, model)[0]


def write_task(
    run_dir: str | os.PathLike[str],
    data: Any,
    path: str | os.PathLike[str],
    model: str | None = None,
) -> tuple[Path, list[str]]:
    """As `export_task`, with the notes that the task's metadata has, too."""
    path = new_path("path", path)
    if path.suffix != ".yaml":
        raise ValueError(f"path: got {quoted(path.name)}, expected a name that ends in .yaml")
    rows_path = path.with_suffix(".jsonl")
    if taken := next((file for file in (path, rows_path) if file.exists()), None):
        raise ValueError(f"path: {visible(taken)} exists already: name another file")
    run = read_run(run_dir)
    rendering = rendering_of(run, model)
    rows = load_examples(data, template=rendering.config.template)
    check_readings({"the run": run["run"].get("readings", ()), "data": rows.readings})
    new = unseen(rows, run["examples"])
    layouts = _laid_out(rendering, new)
    golds = [_golds(row.example, layouts.extractor) for row in layouts.rows]
    notes = [
        *rendering.notes,
        *rows.notes,
        *layouts.notes,
        *_notes(rendering, run["run"].get("metric"), layouts, len(rows) - len(new)),
    ]
    template = "" if rendering.messages is None else " --apply_chat_template"
    head = f"# A task of lm-evaluation-harness: lm_eval --tasks {path.name}{template}\n"
    name = path.stem if path.stem != "lm_eval" else _own_name(Path(run_dir), rows)
    task = head + as_yaml(_task(name, rows_path, rendering, layouts, notes))
    lines = [
        json.dumps(
            {"question": _MARK + row.example.question.strip(), "answers": own}, ensure_ascii=False
        )
        for row, own in zip(layouts.rows, golds, strict=True)
    ]
    try:
        with rows_path.open("x", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
        with path.open("x", encoding="utf-8") as file:
            file.write(task)
    except OSError as error:
        raise ValueError(f"path: {visible(path)} cannot be written: {error.strerror}") from error
    return path, notes


def answer_pattern(extractor: Extractor) -> str:
    """A regular expression of which the last match's only group is the answer that a text gives.

    It follows the extractor's text, and ends where the run ends one; no other text of the
    extractor stands in it.
    """
    text = re.escape(extractor.text).replace(r"\ ", " ")
    closing, guard = extractor.closing.strip(), f"(?!{text})"
    answer, end = answer_and_end(closing, guard)
    opened = rf"{text}\s*(?:{re.escape(opening_of(closing))})?\s*"
    return rf"{opened}({answer}(?=\s*(?:{end}))|(?:{guard}[^\n])*?(?=\s*(?:\n|\Z)))"


def answer_read(extractor: Extractor, text: str) -> str | None:
    """The answer that `answer_pattern` finds in a text, as the harness' filter takes it."""
    found: list[str] = re.findall(answer_pattern(extractor), text)
    return found[-1].strip() if found else None


def end_texts(vocabulary: Vocabulary, end_ids: Sequence[int]) -> list[str]:
    """Names of the special tokens among ids: what ends a turn for whoever only sees texts."""
    texts = [vocabulary.text([i]) for i in sorted(set(end_ids) & vocabulary.special_ids)]
    return [text for text in texts if vocabulary.names_special(text)]


def _laid_out(rendering: Rendering, rows: Examples) -> Layouts:
    """The rows as an evaluation lays them out, held against what the rendering makes of them.

    Raises:
        ValueError: they differ, on a row that names no special token; or as of `build_layouts`.
    """
    examples = in_one_form(rows, spellings(gold for row in rows for gold in row.answers))
    config = replace(rendering.config, extractor=rendering.extractor.in_config())
    extractor = choose_extractor(config, examples)
    layouts = build_layouts(rendering.lm, examples, rendering.prompt, extractor, config)
    plain = [row for row in layouts.rows if not _names_special(rendering, row.example)]
    if plain:
        num_ids_behind(rendering, replace(layouts, rows=tuple(plain)))
    return layouts


def _names_special(rendering: Rendering, example: Example) -> bool:
    return rendering.lm.vocabulary.names_special(example.question)


def _golds(example: Example, extractor: Extractor) -> list[str]:
    """A row's gold answers in the form in which texts are compared.

    A list that begins like a date is read as times where all are, by who reads JSON for the
    harness, as questions would be: a second text that no answer equals keeps it one of texts.

    Raises:
        ValueError: one of them is not read back, or would equal an answer that it does not match.
    """
    found = list(dict.fromkeys(map(compared_form, example.answers)))
    for gold, form in zip(example.answers, map(compared_form, example.answers), strict=True):
        if form != normalise_answer(gold):
            raise ValueError(
                f"the gold answer {quoted(gold)} reads as a choice: a harness compares texts, and "
                "would take its letter for it: write gold answers as letters, or without them"
            )
        if answer_read(extractor, extractor.text + extractor.answer_in_place(form)) != form:
            raise ValueError(
                f"the gold answer {quoted(gold)} is not read back behind the extractor "
                f"{quoted(extractor.in_config())} once it is {quoted(form)}: it cannot be exported"
            )
    return [*found, *(f" {gold}" for gold in found[:1] if _DATE.match(gold))]


def _notes(
    rendering: Rendering, metric: str | None, layouts: Layouts, num_left_out: int
) -> list[str]:
    """What whoever reads a figure of the task should know."""
    notes = []
    if num_left_out:
        notes.append(f"{num_left_out} rows are left out: the run has searched or chosen on them")
    if metric is not None:
        notes.append(f"the run measured answers by {metric}; here they are compared with gold ones")
    if number := sum(_names_special(rendering, row.example) for row in layouts.rows):
        notes.append(
            f"{number} of {len(layouts)} rows name special tokens, which evaluate reads as text: a "
            "harness reads the tokens"
        )
    if rendering.config.chat_template_kwargs:
        given = json.dumps(rendering.config.chat_template_kwargs)
        notes.append(f"the chat template was given {given}: another model than GreaterLM needs it")
    return notes


def _own_name(run_dir: Path, rows: Sequence[Example]) -> str:
    """A name for the task of a file that is called as all are: of two the harness drops one."""
    folder = run_dir.resolve()
    about = [str(folder), *(row.question for row in rows)]
    return f"{folder.name}_{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:6]}"


def _task(
    name: str, rows_path: Path, rendering: Rendering, layouts: Layouts, notes: Sequence[str]
) -> dict[str, Any]:
    """The task's fields, as of lm_eval 0.4.13's `TaskConfig`."""
    config, extractor = rendering.config, layouts.extractor
    first = config.prompt_placement == "before"
    prompt = as_jinja(Joint(prompt_first=first).placed(rendering.prompt))
    answer = layouts.answer_limit
    system = config.system_prompt
    return {
        "task": "greater_fast_" + re.sub(r"\W", "_", name, flags=re.ASCII),
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": glob.escape(str(rows_path))}},
        "test_split": "test",
        "num_fewshot": 0,
        "output_type": "generate_until",
        **({} if system is None else {"description": as_jinja(system)}),
        "doc_to_text": f"{prompt}{_QUESTION}" if first else f"{_QUESTION}{prompt}",
        "doc_to_target": "answers",
        "generation_kwargs": {
            "until": end_texts(rendering.lm.vocabulary, rendering.end_ids),
            "do_sample": config.sampling_temperature > 0,
            "temperature": config.sampling_temperature,
            "max_gen_toks": config.max_new_tokens + len(layouts.extractor_ids) + answer,
        },
        "filter_list": [
            {
                "name": "answer",
                "filter": [
                    {
                        "function": "regex",
                        "regex_pattern": answer_pattern(extractor),
                        "group_select": -1,
                        "fallback": "",
                    },
                    {"function": "take_first"},
                ],
            }
        ],
        "metric_list": [
            {
                "metric": "exact_match",
                "aggregation": "mean",
                "higher_is_better": True,
                "ignore_case": True,
            }
        ],
        "metadata": {
            "version": 1.0,
            "made_by": f"greater_fast {__version__}",
            "model": rendering.files.name,
            "extractor": extractor.in_config(),
            "notes": list(notes),
        },
    }
