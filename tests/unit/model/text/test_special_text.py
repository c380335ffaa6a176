"""Names of special tokens in texts of the user's: read as text, while tokens stay tokens."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from greater_fast.model.text.special_text import literal_double
from greater_fast.model.text.vocabulary import Vocabulary
from tests.cases import tokenizer
from tests.tiny import LLAMA3_SPECIALS, corpus, tiny_tokenizer


def unigram() -> Any:
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=900,
        special_tokens=[*LLAMA3_SPECIALS, "<unk>"],
        unk_token="<unk>",
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ<|>_ ."),
        show_progress=False,
    )
    backend.train_from_iterator(corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=LLAMA3_SPECIALS[1], unk_token="<unk>"
    )


KINDS = pytest.mark.parametrize("kind", ["llama3", "sentencepiece", "unigram"])


def named(kind: str) -> Any:
    return unigram() if kind == "unigram" else tokenizer(kind)


@KINDS
def test_a_name_in_a_text_is_read_as_text(kind: str) -> None:
    vocabulary = Vocabulary(named(kind))
    end = vocabulary.tokenizer.eos_token
    text = f" the book {end} and so{end}"
    assert vocabulary.names_special(text)
    ids = vocabulary.ids(text)
    assert not set(ids) & vocabulary.special_ids
    assert vocabulary.text(ids) == text


@KINDS
def test_a_hidden_token_stays_the_token(kind: str) -> None:
    """Of the same length, so that offsets are those of the text that was meant."""
    vocabulary = Vocabulary(named(kind))
    end = vocabulary.tokenizer.eos_token
    plain = f"{end}the book{end} is small"
    (expected,) = vocabulary.offsets([plain], special_tokens=False)
    (found,) = vocabulary.literal.offsets([vocabulary.hidden(plain)], special_tokens=False)
    assert found == expected
    assert found[0].count(vocabulary.tokenizer.eos_token_id) == 2


def test_a_text_without_names_has_the_same_ids() -> None:
    vocabulary = Vocabulary(tokenizer("llama3"))
    texts = [line for line in corpus()[:50] if not vocabulary.names_special(line)]
    assert vocabulary.literal.encode(texts, special_tokens=True) == vocabulary.encode(
        texts, special_tokens=True
    )


@given(
    parts=st.lists(
        st.sampled_from(["the book", " ", "<", "|>", "eot", *LLAMA3_SPECIALS]), min_size=1
    )
)
@settings(max_examples=50, deadline=None)
def test_no_text_holds_a_special_token(parts: list[str]) -> None:
    vocabulary = Vocabulary(tokenizer("llama3"))
    text = f" {''.join(parts)}"
    ids = vocabulary.ids(text)
    assert vocabulary.text(ids) == text
    assert not set(ids) & vocabulary.special_ids


def test_a_longer_name_comes_before_one_in_it() -> None:
    changed = tiny_tokenizer("llama3")
    changed.add_special_tokens({"additional_special_tokens": ["<x>", "<x>y"]})
    vocabulary = Vocabulary(changed)
    (ids,) = vocabulary.literal.encode([vocabulary.hidden("<x>y<x>")], special_tokens=False)
    assert ids == changed.convert_tokens_to_ids(["<x>y", "<x>"])


def test_a_token_that_is_not_special_is_text_already() -> None:
    changed = tiny_tokenizer("llama3")
    changed.add_tokens(["<think>"])
    vocabulary = Vocabulary(changed)
    assert not vocabulary.names_special("<think>")
    ids = vocabulary.ids(" <think> <|eot_id|>")
    assert changed.convert_tokens_to_ids("<think>") in ids


def test_a_tokenizer_whose_ids_would_move_is_refused() -> None:
    """A backend that has a hole between its ids gives the next free one to a new name."""
    found = tiny_tokenizer("llama3")

    class Moved:
        def to_str(self) -> str:
            return str(found.backend_tokenizer.to_str())

        def token_to_id(self, token: str) -> int:
            return int(found.backend_tokenizer.token_to_id(token)) + 1

    class Holder:
        backend_tokenizer = Moved()

    with pytest.raises(ValueError, match=r"special token '<\|begin_of_text\|>' as text: take the"):
        literal_double(Holder())
