"""A page read back: by Python's own parser of HTML, which knows nothing of templates."""

from collections.abc import Callable
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from greater_fast.report import write_report

_BLOCKS = {"dt", "dd", "td", "th", "p", "div", "li", "summary", "h1", "h2", "h3", "h4"}
_VOID = {"meta", "link", "br", "img", "input", "path", "use", "rect"}


class Page(HTMLParser):
    """What stands in a page: its tags with their attributes, its text, its ids."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source, self.text, self.tags = source, "", []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == [], f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.text += "\n"
        if tag not in _VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def num_bytes(self) -> int:
        return len(self.source.encode())

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


@pytest.fixture
def page(tmp_path: Path) -> Callable[..., Page]:
    """The report of some runs."""

    def page(*runs: Path) -> Page:
        out = tmp_path / "report.html"
        write_report(list(runs), out)
        return Page(out.read_text(encoding="utf-8"))

    return page


@pytest.fixture
def without_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are left blank: drawing them is most of the time that a report takes."""

    def blank(name: str, label: str, draw: Callable[..., None], height: float = 1.0) -> str:
        return f'<svg class="figure" role="img" aria-label="{escape(label)}"></svg>'

    monkeypatch.setattr("greater_fast.report.figures.inline_svg", blank)
