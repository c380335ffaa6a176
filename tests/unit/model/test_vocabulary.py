import re
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greater_fast.model.scripts import ASCII
from greater_fast.model.vocabulary import Vocabulary
from tests.cases import TOKENIZERS, tokenizer
from tests.tiny import tiny_tokenizer

LINES = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Co", "Cn")))


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_ids_in_place_are_those_behind_other_text(kind: str) -> None:
    vocabulary = Vocabulary(tokenizer(kind))
    whole = vocabulary.encode(["the old man counts"], special_tokens=False)[0]
    before = vocabulary.encode(["the old man"], special_tokens=False)[0]
    assert [*before, *vocabulary.ids(" counts")] == whole


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_text_in_place_keeps_the_leading_space(kind: str) -> None:
    vocabulary = Vocabulary(tokenizer(kind))
    for text in (" proper logical reasoning.", " $ True $", "$True$", " a\n\nb", " naïve — 數"):
        assert vocabulary.text(vocabulary.ids(text)) == text


@given(text=LINES)
@settings(max_examples=60, deadline=None)
def test_any_text_comes_back_from_its_ids(text: str) -> None:
    """Behind a space, where no tokenizer merges across."""
    vocabulary = Vocabulary(tokenizer("llama3"))
    assert vocabulary.text(vocabulary.ids(f" .{text}")) == f" .{text}"


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_text_that_merges_with_the_one_before_has_no_ids(kind: str) -> None:
    """The anchor is "a", and "nd" behind it makes "and" one token."""
    with pytest.raises(ValueError, match="merges 'nd' with the text before"):
        Vocabulary(tokenizer(kind)).ids("nd")


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_special_tokens_are_added_on_demand_only(kind: str) -> None:
    vocabulary, bos = Vocabulary(tokenizer(kind)), tokenizer(kind).bos_token_id
    (plain,) = vocabulary.encode(["the book"], special_tokens=False)
    ((ids, offsets),) = vocabulary.offsets(["the book"], special_tokens=False)
    assert list(ids) == plain
    assert offsets[-1][1] == len("the book")
    assert bos not in plain
    if kind != "smollm2":  # SmolLM2's tokenizer adds none
        assert vocabulary.encode(["the book"], special_tokens=True) == [[bos, *plain]]
    assert vocabulary.encode([], special_tokens=True) == []


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_plain_text_is_for_readers(kind: str) -> None:
    vocabulary = Vocabulary(tokenizer(kind))
    end = tokenizer(kind).eos_token_id
    assert vocabulary.plain_text([*vocabulary.ids(" the answer is"), end]) == "the answer is"
    assert vocabulary.plain_text([]) == ""


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_candidates_are_letters_with_a_space_at_most_a_full_stop_or_a_comma(kind: str) -> None:
    vocabulary = Vocabulary(tokenizer(kind))
    mask = vocabulary.candidate_mask(ASCII)
    assert mask.shape == (len(tokenizer(kind)),)
    anchor = vocabulary.encode(["a"], special_tokens=False)[0]
    special = {i for i, t in tokenizer(kind).added_tokens_decoder.items() if t.special}
    for i in (*range(700), *range(700, len(mask), 7)):
        text = tokenizer(kind).decode([*anchor, i], clean_up_tokenization_spaces=False)[1:]
        spelled = re.fullmatch(r" ?[a-zA-Z]+|\.|,", text) is not None
        assert bool(mask[i]) == (i not in special and spelled), text


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_common_pieces_are_candidates_and_others_are_not(kind: str) -> None:
    vocabulary = Vocabulary(tokenizer(kind))
    mask = vocabulary.candidate_mask(ASCII)
    for text in (" the", " answer", ".", ","):
        assert mask[vocabulary.ids(text)[-1]], text
    for text in ("$", "7", "!", "(", "\n", "é"):
        assert not mask[vocabulary.ids(f" .{text}")[-1]], text
    assert not mask[tokenizer(kind).all_special_ids].any()


def test_a_special_token_made_of_letters_is_no_candidate() -> None:
    changed = tiny_tokenizer("llama3")
    changed.add_special_tokens({"additional_special_tokens": ["stop"]})
    changed.add_tokens(["zebra"])
    mask = Vocabulary(changed).candidate_mask(ASCII)
    assert not mask[changed.convert_tokens_to_ids("stop")]
    assert mask[changed.convert_tokens_to_ids("zebra")]


def test_a_slow_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a fast tokenizer"):
        Vocabulary(SimpleNamespace(is_fast=False))
    with pytest.raises(ValueError, match="got NoneType"):
        Vocabulary(None)


def test_a_tokenizer_without_text_is_refused() -> None:
    class Empty:
        is_fast = True

        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": []}

    with pytest.raises(ValueError, match="no ids for plain text"):
        Vocabulary(Empty())
