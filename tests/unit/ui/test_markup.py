"""What is shown of data is text, whatever it holds; and what is drawn stands where it should."""

import itertools
import re
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


FIGURES = st.tuples(st.floats(0, 100), st.floats(0, 1))


@given(st.lists(FIGURES, max_size=30), st.none() | FIGURES, st.integers(0, 60), st.integers(0, 3))
def test_figures_are_read_off_the_curve(
    figures: list[tuple[float, float]],
    start: tuple[float, float] | None,
    num_planned: int,
    first: int,
) -> None:
    """By its numbers, as a reader does: at each step what was given, and a step between two."""
    names = ("objective", "error_rate")
    steps = [step(step=n, **dict(zip(names, f, strict=True))) for n, f in enumerate(figures, first)]
    initial = dict(zip(names, start, strict=True)) if start else None
    drawing = curve(steps, num_planned, initial)
    given = {0: start} if start else {}
    given |= dict(enumerate(figures, first + 1))
    if not given:
        assert drawing == ""
        return
    svg = ElementTree.fromstring(drawing[drawing.index("<svg") : -len("</figure>")])
    texts = list(svg.iter("text"))
    below = [(float(t.text or ""), float(t.attrib["x"])) for t in texts if is_below(t)]
    beside = [(float(t.text or ""), float(t.attrib["y"]) - 4) for t in texts if not is_below(t)]
    assert [float(line.attrib["y1"]) for line in svg.iter("line")] == [y for _, y in beside]
    assert (below[0][0], below[-1][0]) == (min(given), max(*given, num_planned))
    is_round(beside[1][0], [value for value, _ in beside])
    for which, line in enumerate(svg.iter("polyline")):
        points = [(*map(float, point.split(",")),) for point in line.attrib["points"].split()]
        assert all(a[0] == b[0] or a[1] == b[1] for a, b in itertools.pairwise(points))
        heights = dict(points)  # the last at each place across: where the step went to
        assert len(heights) == len(given)
        for (x, y), (number, values) in zip(heights.items(), given.items(), strict=True):
            assert x == pytest.approx(read_at(below, number), abs=0.2)
            assert y == pytest.approx(read_at(beside, values[which]), abs=0.2)
        places = [x for x, _ in points]
        assert places == sorted(places)


def is_below(text: ElementTree.Element) -> bool:
    return text.attrib["text-anchor"] == "middle"


def read_at(scale: list[tuple[float, float]], value: float) -> float:
    """Where a value stands by the first and last number of a scale; it is none beyond them."""
    (low, at_low), (high, at_high) = scale[0], scale[-1]
    assert low <= value <= high
    return at_low + (at_high - at_low) * (value - low) / (high - low or 1)


def is_round(apart: float, values: list[float]) -> None:
    """Values begin with 0 and lie 1, 2 or 5 of a power of ten apart; there are few."""
    assert f"{apart:.0e}"[0] in "125"
    assert apart == float(f"{apart:.0e}")
    assert values == pytest.approx([apart * number for number in range(len(values))])
    assert len(values) <= 7


def test_a_gain_of_the_first_step_is_seen() -> None:
    start = {"objective": 0.5, "error_rate": 0.5}
    assert "Before the first step: objective 0.5000" in curve([], 4, start)
    drawing = curve([step(objective=0.25, error_rate=0.5)], 4, start)
    assert "After step 1: objective 0.2500, error 0.5000" in drawing
    (points,) = re.findall("class='objective' points='([^']*)'", drawing)
    before, until, after = points.split()
    assert before.split(",")[1] == until.split(",")[1] != after.split(",")[1]


def test_nothing_is_drawn_of_what_is_not_known() -> None:
    assert curve([], 10) == ""
