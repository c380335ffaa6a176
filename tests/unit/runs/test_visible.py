import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greater_fast.runs.input import InputError
from greater_fast.runs.visible import brief, described, visible, with_traceback


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\u001b[2J"),
        ("\x9b31m", "\\u009b31m"),
        ("a\rb\x7f\x00", "a\\u000db\\u007f\\u0000"),
        ("\u202eevil\u202c \u2066x\u2069 \u200f", "\\u202eevil\\u202c \\u2066x\\u2069 \\u200f"),
        ("line\u2028 \ufeff", "line\\u2028 \\ufeff"),
        ("\udce9 \U000e0041", "\\udce9 \\udb40\\udc41"),
        ("two\nlines\tand\xa0more", "two\nlines\tand\xa0more"),
        ("Übung 思考 می‌روم नमस्ते 👩‍💻 \\u001b", "Übung 思考 می‌روم नमस्ते 👩‍💻 \\u001b"),
    ],
)
def test_what_cannot_be_seen_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown


@given(st.text(st.characters(exclude_categories=[])))
def test_nothing_that_steers_is_left(text: str) -> None:
    kinds = {unicodedata.category(c) for c in visible(text) if c not in "\n\t\u200c\u200d"}
    assert not kinds & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@given(st.text(st.characters(exclude_categories=[])), st.booleans())
def test_json_stays_the_same_json(text: str, ascii_only: bool) -> None:
    shown = visible(json.dumps({text: [text]}, ensure_ascii=ascii_only))
    assert json.loads(shown) == {text: [text]}


def test_long_texts_are_cut() -> None:
    assert brief("a" * 200) == "a" * 200
    cut = brief("a" * 5000 + "b" * 50)
    assert cut == "a" * 100 + " ... [5,050 characters] ... " + "b" * 50


def test_errors_are_told_with_their_kind_unless_they_are_words() -> None:
    assert described(InputError("no\n such\x1b file")) == "no such\\u001b file"
    assert described(FloatingPointError("the loss is nan")) == "the loss is nan"
    assert described(MemoryError()) == "MemoryError"
    assert described(KeyError("a")) == "KeyError: 'a'"
    assert described(ValueError("too many values")) == "ValueError: too many values"
    for letter in ("x", "\U0001005e"):  # the second is shown as twelve
        assert len(described(InputError(letter * 1990))) <= 2000
        assert len(described(InputError(letter * 100_000))) < 2000


def test_frames_and_notes_of_an_error() -> None:
    error = KeyError("\x1b")
    error.add_note("see runs/a")
    try:
        raise error
    except KeyError as caught:
        lines = with_traceback(caught).splitlines()
    assert lines[0].startswith("Traceback")
    assert "test_frames_and_notes_of_an_error" in "".join(lines)
    assert lines[-2:] == ["KeyError: '\\x1b'", "see runs/a"]
