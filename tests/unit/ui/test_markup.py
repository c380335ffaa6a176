"""What is shown of data is text, whatever it holds; and what is drawn stands where it should."""

import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greater_fast.ui import markup
from greater_fast.ui.curve import curve
from greater_fast.ui.preview import Preview
from greater_fast.ui.story import Story

pytestmark = pytest.mark.ui
HOSTILE = "</pre><script>alert(1)</script><img src=x onerror='f()'> ${f()} {{f}} \x1b[1m\u202e"


class Reader(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def step(**changes: Any) -> dict[str, Any]:
    return {
        "step": 0,
        "prompt": HOSTILE,
        "objective": 0.5,
        "error_rate": 0.25,
        "trials": [{"token": HOSTILE}],
        "changed": True,
        **changes,
    }


def pages() -> list[str]:
    pair = (HOSTILE, HOSTILE)
    seen = Preview(3, (pair,), (pair,), pair, HOSTILE, ((*pair, HOSTILE),), pair, HOSTILE)
    story = Story(HOSTILE, pair, (step(),), HOSTILE, f"{HOSTILE} more", 3)
    return [
        markup.problem(HOSTILE),
        markup.preview_html(seen),
        markup.story_html(story),
        markup.prompt_html(story),
        markup.steps_html(story),
    ]


def test_no_text_of_others_is_markup_or_a_template() -> None:
    for page in pages():
        read = Reader(page)
        assert not read.tags & {"script", "img"}
        assert not read.attributes & {"onerror", "src"}
        assert "<script>alert(1)</script>" in read.text
        assert not set("${") & set(page)
        assert not set("\x1b\u202e") & set(read.text)


@given(st.text(st.characters(exclude_characters="\r\0", exclude_categories=("Cc", "Cs", "Cf"))))
def test_plain_text_is_read_back(value: str) -> None:
    shown = "".join(c for c in value if c.isprintable())
    assert Reader(f"<p>{markup.text(shown)}</p>").text == shown


def test_tables_have_a_cell_for_each_value_and_none_for_nothing() -> None:
    page = markup.table("three", ("a", "b"), [("1", "2"), ("3", "a longer text that breaks")])
    assert (page.count("<tr>"), page.count("<td"), page.count("<th ")) == (3, 4, 2)
    assert page.count("class='short'") == 3  # the first column alone
    assert "many" not in page
    assert "data-header='d'" in markup.table("many", tuple("abcd"), ["1234"])
    assert markup.table("none", ("a", "b"), []) == ""


def test_a_prompt_that_is_the_initial_one_has_no_marks() -> None:
    assert not Reader(markup.prompt_html(Story("h", initial="a b", prompt="a b"))).tags & {
        "ins",
        "del",
    }
    changed = markup.prompt_html(Story("h", initial="a b", prompt="a c"))
    assert "a <del>b</del><ins>c</ins>" in changed


FIGURES = st.floats(0, 10)


@given(st.lists(st.tuples(FIGURES, FIGURES), min_size=1, max_size=30), st.integers(0, 60))
def test_points_of_the_curve_are_in_order_and_inside(
    figures: list[tuple[float, float]], num_planned: int
) -> None:
    steps = [
        step(step=number, objective=objective, error_rate=error)
        for number, (objective, error) in enumerate(figures)
    ]
    drawing = curve(steps, num_planned)
    svg = ElementTree.fromstring(drawing[drawing.index("<svg") : -len("</figure>")])
    width, height = map(float, svg.attrib["viewBox"].split()[2:])
    lines = [line.attrib["points"].split() for line in svg.iter("polyline")]
    for line, values in zip(lines, zip(*figures, strict=True), strict=True):
        points = [tuple(map(float, point.split(","))) for point in line]
        assert len(points) == len(values)
        assert [x for x, _ in points] == sorted({x for x, _ in points})
        assert all(0 <= x <= width and 0 <= y <= height for x, y in points)
        by_height = sorted(zip(values, points, strict=True), key=lambda pair: pair[0])
        heights = [y for _, (_, y) in by_height]
        assert heights == sorted(heights, reverse=True)  # y grows downwards
    assert f"After step {len(figures)}: objective {figures[-1][0]:.4f}" in drawing


def test_nothing_is_drawn_before_the_first_step() -> None:
    assert curve([], 10) == ""
