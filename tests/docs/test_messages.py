"""Messages that the pages quote are messages of the package, whose parts that differ are "…"."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
_CELL = re.compile(r"^\| `(.+?)` \|", re.MULTILINE)


def quoted_messages() -> list[str]:
    """Those in the first cells of the page's tables."""
    return _CELL.findall(PAGE.read_text(encoding="utf-8"))


def texts(path: Path) -> Iterator[str]:
    """Texts of a source, f-strings with "…" in place of their values."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = (p.value if isinstance(p, ast.Constant) else "…" for p in node.values)
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


SOURCES = {
    text
    for path in (ROOT / "greater_fast").rglob("*.py")
    if "kernels" not in path.parts
    for text in texts(path)
}


def is_a_message(quoted: str) -> bool:
    """Whether some text of the sources holds the parts of a quoted message, in their order."""
    parts = [re.escape(part) for part in quoted.split("…") if part.strip()]
    pattern = re.compile(".*".join(parts), re.DOTALL)
    return bool(parts) and any(pattern.search(text) for text in SOURCES)


@pytest.mark.parametrize("quoted", quoted_messages())
def test_a_quoted_message_is_one_of_the_package(quoted: str) -> None:
    assert is_a_message(quoted)


def test_there_are_messages_and_each_once() -> None:
    messages = quoted_messages()
    assert len(messages) > 100
    assert len(set(messages)) == len(messages)


def test_what_nobody_says_is_no_message() -> None:
    assert is_a_message("run_dir … holds another run (…): name another folder")
    assert not is_a_message("run_dir … holds another run (…): buy another folder")
    assert not is_a_message("name another folder … run_dir")
    assert not is_a_message("…")
