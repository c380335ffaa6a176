"""What messages repeat of what they were given: short, on one line, in letters that UTF-8 has."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greater_fast.wording import in_one_line, listed, numbered, printable, quoted, shortened

anything = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=200),
    st.builds(lambda text: text * 100, st.text(st.characters(exclude_categories=()), min_size=1)),
    st.lists(st.text()),
    st.integers(),
)


class Mute:
    """No text can be had of it."""

    def __repr__(self) -> str:
        raise KeyError("x")


def nested(depth: int) -> list[Any]:
    """A list in a list, and so on."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@given(anything)
def test_any_value_is_one_short_line_of_unicode(value: object) -> None:
    for line, length in (
        (shortened(value), 60),
        (shortened(value, 7), 7),
        (quoted(value), 80),
        (quoted(value, 7), 7),
        (in_one_line(value), 300),
    ):
        assert len(line) <= length
        assert "\n" not in line
        assert line.isprintable()  # so UTF-8 has it


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", "'plain'"),
        ("it's", '"it\'s"'),
        ("", "''"),
        ("a\nb\x1b[31m\ud800", r"'a\nb\x1b[31m\ud800'"),
        ("x" * 78, f"'{'x' * 78}'"),
        ("x" * 79, f"'{'x' * 77}…'"),
        ("\0" * 79, "'" + r"\x00" * 19 + r"\…'"),
        (7, "7"),
        (None, "None"),
        ([1, "a"], "[1, 'a']"),
    ],
)
def test_quoted(value: object, expected: str) -> None:
    assert quoted(value) == expected


def test_what_cannot_be_written_is_named_by_its_type() -> None:
    assert quoted(10**5000) == "<int>"
    assert quoted(nested(100_000)) == "<list>"
    assert quoted(Mute()) == shortened(Mute()) == "<Mute>"


def test_shortened() -> None:
    assert shortened("two\nlines") == r"two\nlines"
    assert shortened("x" * 60) == "x" * 60
    assert shortened("x" * 61) == "x" * 59 + "…"
    assert shortened(7) == "7"


def test_in_one_line() -> None:
    assert in_one_line(ValueError(" two\n  lines ")) == "two lines"
    assert in_one_line("word " * 100) == ("word " * 60)[:299] + "…"


def test_listed() -> None:
    assert listed([]) == "(none)"
    assert listed(["a", "", 3]) == "a, (unnamed), 3"
    assert listed(range(10)) == "0, 1, 2, 3, 4, 5, 6, 7, … and 2 more"
    assert listed(range(3), 2) == "0, 1, … and 1 more"


def test_printable_keeps_line_breaks() -> None:
    assert printable("a\tb\nc\u202e") == "a\\tb\nc\\u202e"
    assert printable("schön 東京") == "schön 東京"


def test_names_that_come_again_are_numbered() -> None:
    assert numbered(["a", "b", "a", "a"]) == ["a", "b", "a (2)", "a (3)"]
    assert numbered([]) == []
