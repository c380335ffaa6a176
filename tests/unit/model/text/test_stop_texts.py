import functools
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from greater_fast.model.text.stop_texts import StopTexts
from greater_fast.model.text.vocabulary import Vocabulary
from tests.cases import tokenizer

KINDS = pytest.mark.parametrize("kind", ["llama3", "sentencepiece"])
TEXTS = (
    "It is done.\n\n[[ ## answer ## ]]\nTrue",
    " naïve 数学 😀.\n",
    "a\n\nb\n c",
    "<|eot_id|>$.$",
)


@functools.cache
def vocabulary(kind: str) -> Vocabulary:
    return Vocabulary(tokenizer(kind))


@functools.cache
def common_ids(kind: str) -> tuple[int, ...]:
    """Ids that texts with stop texts in them have, those of half characters among them."""
    own = vocabulary(kind)
    return tuple({i for text in TEXTS for i in own.ids(text)})


def decoded(own: Vocabulary, ids: Sequence[int], stops: Sequence[str]) -> tuple[int, str] | None:
    """The oracle: all is decoded after each token."""
    for count in range(1, len(ids) + 1):
        text = own.text(ids[:count])
        places = [text.index(stop) for stop in stops if stop in text]
        if places:
            return count, text[: min(places)]
    return None


@KINDS
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_text_is_cut_as_by_decoding_all_of_it(kind: str, data: st.DataObject) -> None:
    own = vocabulary(kind)
    some = st.sampled_from(common_ids(kind)) | st.integers(0, 1100)
    ids = data.draw(st.lists(some, min_size=1, max_size=14))
    whole = own.text(ids).replace("\ufffd", "\n") or "."
    parts = st.tuples(st.integers(0, len(whole) - 1), st.integers(1, 6))
    pieces = parts.map(lambda part: whole[part[0] : part[0] + part[1]])
    marks = st.sampled_from(("\n", ".", "\n\n", "]]", "é", "数", "\n\n[[", " ", "e"))
    stops = data.draw(st.lists(pieces | marks, min_size=1, max_size=3))
    found, expected = StopTexts(own, stops).first_cut(ids, 100), decoded(own, ids, stops)
    assert (found is None) == (expected is None)
    if found and expected:
        count, cut = found
        assert count == expected[0]
        assert own.text([*ids[: cut.num_kept], *cut.ids]) == expected[1]
        assert cut.num_kept <= count
        assert stops[cut.number] in own.text(ids[:count])


@KINDS
def test_the_ids_before_a_stop_text_stay(kind: str) -> None:
    own = vocabulary(kind)
    ids = own.ids(" It is so.")
    written = (*ids, *own.ids("\n\n[[ ## answer ## ]]\nTrue"))
    found = StopTexts(own, ["\n\n[[ ## answer"]).first_cut(written, 100)
    assert found is not None
    assert (*written[: found[1].num_kept], *found[1].ids) == ids


def test_a_token_that_begins_before_the_stop_text_is_spelled_again() -> None:
    own = vocabulary("llama3")
    ids = own.ids(" It is True")
    (last,) = own.ids(" True")
    assert ids[-1] == last
    stops = StopTexts(own, ["rue"])
    cut = stops.cut(ids, 100)
    assert cut is not None
    assert (cut.num_kept, own.text(cut.ids)) == (len(ids) - 1, " T")
    assert stops.cut(ids, len(ids) - 1) == (len(ids) - 1, (), 0)  # no room for what is spelled


@KINDS
@example(stops=["\n"])
@settings(max_examples=30, deadline=None)
@given(stops=st.lists(st.sampled_from((".", "\n\n", "##", "the", "$.", "é")), min_size=1))
def test_few_ids_are_looked_at(kind: str, stops: list[str]) -> None:
    own = vocabulary(kind)
    found = StopTexts(own, stops).last_ids
    whole = {i for i, token in enumerate(own.token_texts) if "\ufffd" not in token}
    assert all(set(own.token_texts[i]) & set("".join(stops)) for i in found & whole)
    assert len(found) < len(own.token_texts) / 2


@pytest.mark.parametrize("texts", [[], "stop", [""], ["\ufffd"]])
def test_texts_that_cannot_stop(texts: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^stop_texts: got .+, expected a "):
        StopTexts(vocabulary("llama3"), texts)


def test_equal_texts_are_equal_stops() -> None:
    own = vocabulary("llama3")
    assert StopTexts(own, ["a", "b"]) == StopTexts(own, ("a", "b")) != StopTexts(own, ["b", "a"])
    assert len({StopTexts(own, ["a"]), StopTexts(own, ["a"])}) == 1
