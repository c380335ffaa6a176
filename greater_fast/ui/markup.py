"""What the page shows of data and runs, as HTML: every text of others is escaped here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from greater_fast.report.prompt_diff import changes
from greater_fast.runs.visible import visible
from greater_fast.ui.preview import Preview
from greater_fast.ui.story import Story

_SHORT = 12  # characters
_FEW = 3  # columns, which stand beside each other on a phone
_TAGS = {"added": "ins", "removed": "del"}
NOTHING_SEEN = "<p>Drop a data file: how its rows are understood stands here.</p>"


def text(value: object) -> str:
    """A text within HTML; nor does gradio, whose HTML may hold templates, find one in it."""
    return html.escape(visible(value)).replace("{", "&#123;").replace("$", "&#36;")


def problem(what: object) -> str:
    """What is wrong, as a box that a screen reader speaks."""
    return f"<div class='problem' role='alert'>{text(what)}</div>"


def elsewhere(name: str) -> str:
    """That another run than the one that is shown goes on, which is why no other can begin."""
    shown = f"The run {name} goes on. Load the page anew to see it, and to stop it."
    return f"<p role='status'>{text(shown)}</p>"


def listed(lines: Iterable[str]) -> str:
    """A list of lines; nothing where there are none."""
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def table(caption: str, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; nothing where it has no rows."""
    body = list(rows)
    if not body:
        return ""
    kinds = [_kind(column) for column in zip(headers, *body, strict=True)]
    head = "".join(
        f"<th scope='col'{kind}>{text(h)}</th>" for h, kind in zip(headers, kinds, strict=True)
    )
    lines = "".join(f"<tr>{_cells(headers, row, kinds)}</tr>" for row in body)
    name = "plain many" if len(headers) > _FEW else "plain"
    return (
        f"<table class='{name}'><caption>{text(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{lines}</tbody></table>"
    )


def marked(before: str, after: str) -> str:
    """A prompt with what was put into it and taken out of it."""
    pieces = ((piece.text, _TAGS.get(piece.kind)) for piece in changes(before, after))
    shown = (f"<{tag}>{text(part)}</{tag}>" if tag else text(part) for part, tag in pieces)
    return f"<p class='prompt'>{''.join(shown)}</p>"


def preview_html(seen: Preview) -> str:
    """The preview of a file: its columns and rows, what is made of them, the memory they take."""
    reads = f"<h3>A row as the model reads it</h3><pre class='reads'>{text(seen.reads)}</pre>"
    return "".join(
        [
            problem(seen.problem) if seen.problem else "",
            f"<h3>{seen.num_rows} rows were read</h3>" if seen.num_rows else "",
            table("Columns", ("column", "taken for"), seen.columns),
            table(f"The first of {seen.num_rows} rows", ("question", "answer"), seen.rows),
            listed(seen.notes),
            reads if seen.reads else "",
            f"<h3>{text(seen.verdict[0])}</h3>{listed(seen.verdict[1:])}" if seen.verdict else "",
            table("Memory, on paper", ("part", "size", "what it is"), seen.needs),
        ]
    )


def story_html(story: Story) -> str:
    """A run in a line, and what else is to be told of it."""
    notes = f"<details><summary>Notes</summary>{listed(story.notes)}</details>"
    headline = f"<p class='headline' role='status'>{text(story.headline)}</p>"
    return headline + (notes if story.notes else "")


def prompt_html(story: Story) -> str:
    """The prompt so far, beside the initial one."""
    if not story.initial:
        return ""
    title = "The best prompt" if story.finished else "The prompt so far"
    changed = "" if story.prompt == story.initial else ", with what changed"
    return f"<h3>{title}{changed}</h3>{marked(story.initial, story.prompt)}"


def steps_html(story: Story) -> str:
    """The steps in a table, the last one first: what was tried, what it came to."""
    rows = (
        (
            str(step["step"] + 1),
            f"{step['objective']:.4f}",
            f"{step['error_rate']:.1%}",
            ", ".join(trial["token"].strip() or repr(trial["token"]) for trial in step["trials"]),
            step["prompt"] if step["changed"] else "unchanged",
        )
        for step in reversed(story.steps)
    )
    headers = ("step", "objective", "error", "tried", "prompt")
    return table("Steps, the last one first", headers, rows)


def _cells(headers: Sequence[str], row: Sequence[str], kinds: Sequence[str]) -> str:
    """The cells of a row, each with its header: on a narrow page they stand one below the other."""
    return "".join(
        f"<td{kind} data-header='{text(header)}'>{text(cell)}</td>"
        for header, cell, kind in zip(headers, row, kinds, strict=True)
    )


def _kind(column: Iterable[str]) -> str:
    """A column of short cells is not broken into lines, however narrow the page is."""
    return " class='short'" if all(len(cell) <= _SHORT for cell in column) else ""
