"""How the columns of a row become its question."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from greater_fast.examples.loading.columns import Columns
from greater_fast.wording import quoted

OPTIONS_FIELD = "options"
_FIELD = re.compile(r"\{([^{}\n]+)\}")
_TOKEN = re.compile(r"(\{\{|\}\}|\{[^{}\n]+\})")


@dataclass(frozen=True, slots=True)
class Template:
    """Paragraphs, each of text and names of columns by turns, from text to text."""

    paragraphs: tuple[tuple[str, ...], ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """The names that are filled in, each once."""
        return tuple(dict.fromkeys(name for parts in self.paragraphs for name in parts[1::2]))

    def filled(self, values: Mapping[str, str]) -> str:
        """The text with values for names; a paragraph whose names are all empty is left out."""
        paragraphs = []
        for parts in self.paragraphs:
            cells = [values[name] for name in parts[1::2]]
            if any(cells) or not cells:
                filled = [*parts]
                filled[1::2] = cells
                paragraphs.append("".join(filled))
        return "\n\n".join(paragraphs).strip()


def parse_template(text: object) -> Template:
    """A template from its text: `{name}` stands for a column, `{{` and `}}` for braces.

    Raises:
        ValueError: it is no text, or names no column.
    """
    paragraphs = []
    for paragraph in text.split("\n\n") if isinstance(text, str) else ():
        parts = [""]
        for token in _TOKEN.split(paragraph):
            if name := _FIELD.fullmatch(token):
                parts += [name[1].strip(), ""]
            else:
                parts[-1] += token[0] if token in ("{{", "}}") else token
        paragraphs.append(tuple(parts))
    template = Template(tuple(paragraphs))
    if not template.fields:
        raise ValueError(
            f"template: got {quoted(text)}; expected names of columns in braces; write for example "
            "'{passage}\\n{question}'"
        )
    return template


def default_template(columns: Columns) -> str:
    """The question with what belongs to it, each under its name, and the options below.

    A question alone, or with options alone, stands as it is.
    """
    besides = [f"{_title(name)}: {{{name}}}" for name in (*columns.before, *columns.after)]
    question = "{question}"
    if besides:
        question = f"{_title(columns.question or 'question')}: {{question}}"
    besides.insert(len(columns.before), question)
    if columns.options or columns.wrong:
        besides.append(f"Options:\n{{{OPTIONS_FIELD}}}")
    return "\n\n".join(besides)


def _title(name: str) -> str:
    title = str(name).replace("_", " ").strip().capitalize()
    return title.replace("{", "{{").replace("}", "}}")
