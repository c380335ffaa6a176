import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greater_fast.report.prompt_diff import changes, in_context, shown


def marked(before, after):
    marks = {"same": "{}", "removed": "-{}-", "added": "+{}+"}
    return "".join(marks[p.kind].format(p.text) for p in changes(before, after))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("think step by step", "think word by step", "think -step-+word+ by step"),
        ("think.", "think well.", "think+ well+."),
        ("a b", "a b", "a b"),
        ("", "new", "+new+"),
        ("逐步思考", "逐步回答", "逐步-思考-+回答+"),
        ("don’t", "do", "-don’t-+do+"),
    ],
)
def test_words_are_marked(before, after, expected):
    assert marked(before, after) == expected


@settings(deadline=None)
@given(st.text("ab .,\n思è", max_size=40), st.text("ab .,\n思è", max_size=40))
def test_both_prompts_can_be_read_off(before, after):
    pieces = changes(before, after)
    assert "".join(p.text for p in pieces if p.kind != "added") == before
    assert "".join(p.text for p in pieces if p.kind != "removed") == after


def test_prompts_too_long_to_compare_are_shown_whole():
    before, after = "a " * 2000, "b " * 2000
    assert [(p.kind, p.text) for p in changes(before, after)] == [
        ("removed", before),
        ("added", after),
    ]
    assert [p.kind for p in changes(before, before)] == ["same"]


def test_a_side_has_its_own_stretches():
    pieces = changes("a b", "a c")
    assert [p.text for p in shown(pieces, without="added", most=99)] == ["a ", "b"]
    assert [p.text for p in shown(pieces, without="removed", most=99)] == ["a ", "c"]


def test_far_from_a_change_text_is_left_out():
    before = f"{'far ' * 100}old{' off' * 100}"
    pieces = in_context(changes(before, before.replace("old", "new")))
    assert [p.kind for p in pieces] == ["same", "removed", "added", "same"]
    assert pieces[0].text.startswith(" … far")
    assert pieces[0].text.endswith("far ")
    assert pieces[3].text.endswith("off … ")
    assert all(len(piece.text) < 60 for piece in pieces)
