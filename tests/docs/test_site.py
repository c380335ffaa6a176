"""The site: built strictly and without a network, whole, and asking nobody for anything."""

import dataclasses
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import greater_fast
from greater_fast import Config
from tests.docs.pages import PAGES, ROOT, name_of

BUILD = """
import socket, sys
def refuse(*_): raise OSError("the site was to be built without a network")
socket.socket.connect = socket.getaddrinfo = refuse
from mkdocs.__main__ import cli
cli(["build", "--strict", "--site-dir", sys.argv[1]])
"""


class Page(HTMLParser):
    """What a page loads, and what it says outside of code."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.paragraphs: list[str] = []
        self.ids: set[str] = set()
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids.add(given.get("id", ""))
        if tag != "a":
            self.loaded += [
                given[name] for name in ("src", "href", "data", "poster") if name in given
            ]
        if tag in ("p", "pre", "code"):
            self._open.append(tag)
        if tag == "p":
            self.paragraphs.append("")

    def handle_endtag(self, tag: str) -> None:
        if self._open and tag == self._open[-1]:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open == ["p"]:
            self.paragraphs[-1] += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-c", BUILD, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {str(path.relative_to(site)): Page(path) for path in site.rglob("*.html")}


def test_every_page_is_there(pages: dict[str, Page]) -> None:
    written = {name_of(page) for page in PAGES} - {"README.md"}
    assert {name.replace(".md", ".html") for name in written} == pages.keys() - {"404.html"}


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[str, Page]) -> None:
    outside = [url for page in pages.values() for url in page.loaded if "//" in url]
    assert outside == []
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert styles
    assert not any(re.search(r"url\(['\"]?(https?:)?//|@import", style) for style in styles)
    # What the theme fetches for diagrams: there are none.
    assert not any("mermaid" in path.read_text(encoding="utf-8") for path in site.rglob("*.html"))


def test_tables_and_lists_are_such(pages: dict[str, Page]) -> None:
    """What Markdown does not understand is shown as it was written."""
    for name, page in pages.items():
        for text in page.paragraphs:
            assert not re.search(r"\|---|^\||\n(- |\d+\. |\|)|:::|```|<!--", text), (name, text)


def test_all_public_names_and_settings_are_told(site: Path, pages: dict[str, Page]) -> None:
    told = (site / "api.html").read_text(encoding="utf-8")
    homes = {getattr(greater_fast, name).__module__: name for name in greater_fast.__all__}
    assert len(homes) > 3
    for name in greater_fast.__all__:
        home = getattr(greater_fast, name).__module__
        assert {f"greater_fast.{name}", f"{home}.{name}"} & pages["api.html"].ids, name
    for field in dataclasses.fields(Config):
        assert f"<td><code>{field.name}</code></td>" in told, field.name
    assert "next tokens proposed by an example (k of the paper)" in told


def test_methods_stand_beside_their_code(site: Path) -> None:
    told = (site / "method.html").read_text(encoding="utf-8")
    assert told.count("<summary>Source code in <code>") >= 10


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_of_pages_outside_of_the_site(name: str) -> None:
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / name).read_text(encoding="utf-8"))
    for link in links:
        path, _, anchor = link.partition("#")
        if re.match(r"https?:", link):
            continue
        target = ROOT / (path or name)
        assert target.is_file(), link
        headings = (
            re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            if anchor
            else []
        )
        slugs = {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}
        assert not anchor or anchor in slugs, link
