"""The pages of the documentation, and the blocks of code in them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Fences of other kinds show data, output and equations, and are no code.
SHOWN = {"text", "jsonl", "csv"}
SHELL = {"sh", "bash"}
COMMANDS = {
    *("bash", "greater-fast", "make", "pip", "python", "torchrun"),
    *("ssh", "tensorboard"),
}
FRONT_ENDS = "front_ends/"  # pages whose Python wants packages of other projects
_NOT_RUN = re.compile(r"<!-- not run: (.+) -->")


class Block(NamedTuple):
    """A block of a page: the kind is its fence's, "" for lines that are merely indented."""

    page: str
    line: int
    kind: str
    text: str
    not_run: str | None  # why, where it says so

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command, settings of the environment left out; none of what is text."""
        if self.kind not in ("", *SHELL):
            return []
        lines = self.text.replace("\\\n", " ").splitlines()
        split = [_words(line) for line in lines]
        found = [words for words in split if words]
        is_shell = self.kind in SHELL or bool(found and found[0][0] in COMMANDS)
        return found if is_shell else []

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def name_of(path: Path) -> str:
    """A page's name: its path in docs, or that of the README."""
    return str(path.relative_to(ROOT)).removeprefix("docs/")


def blocks(path: Path) -> Iterator[Block]:
    """All blocks of a page, in order."""
    page = name_of(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    number, reason = 0, None
    while number < len(lines):
        line, begin = lines[number], number + 1
        if found := _NOT_RUN.fullmatch(line.strip()):
            reason = found[1]
        elif line.startswith("```"):
            number += 1
            first = number
            while lines[number] != "```":
                number += 1
            yield Block(page, begin, line[3:], "\n".join(lines[first:number]), reason)
        elif line.startswith("    ") and not lines[number - 1].strip():
            first = number
            while number + 1 < len(lines) and _goes_on(lines, number + 1):
                number += 1
            text = "\n".join(each[4:] for each in lines[first : number + 1])
            yield Block(page, begin, "", text, reason)
        if line.strip() and not found:
            reason = None
        number += 1


def _goes_on(lines: list[str], number: int) -> bool:
    """Whether an indented block has this line: indented, or blank before one that is."""
    if lines[number].strip():
        return lines[number].startswith("    ")
    return number + 1 < len(lines) and lines[number + 1].startswith("    ")


def _words(line: str) -> list[str]:
    """The words of a command, from its name on; none where it cannot be split."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return []
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    return [Path(words[0]).name, *words[1:]] if words else []


ALL_BLOCKS = [block for page in PAGES for block in blocks(page)]
