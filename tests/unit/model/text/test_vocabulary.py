import re
import string
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from greater_fast.model.text.scripts import ASCII, Alphabet
from greater_fast.model.text.vocabulary import Vocabulary
from tests.cases import TOKENIZERS, layouts_of, tokenizer, tokenizer_lm
from tests.languages import PROMPTS, language_tokenizer
from tests.tiny import PROMPT, corpus, tiny_tokenizer

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
@pytest.mark.parametrize(
    ("text", "behind"), [(" so\n\n", "[[ x"), (" 18\n", "</answer>"), (" so", "me"), (" 18.", "")]
)
def test_ids_are_those_before_what_stands_behind(kind: str, text: str, behind: str) -> None:
    vocabulary = Vocabulary(tokenizer(kind))
    ids, whole = vocabulary.ids(text, behind), vocabulary.ids(text + behind)
    assert whole[: len(ids)] == ids
    read = vocabulary.text(ids)
    assert (text + behind).startswith(read)
    assert read.startswith(text)
    assert not vocabulary.text(ids[:-1]).startswith(text)  # and none more


def line_breaks_before_brackets() -> Vocabulary:
    """As GPT-2's pattern: of the white space before a mark the last character stands alone."""
    pattern = r"\s+(?!\S)|\s+|[^\s\p{L}]+|\p{L}+"
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<end>"],
        show_progress=False,
    )
    backend.train_from_iterator(["so\n\n"] * 9, trainer)
    return Vocabulary(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>"))


def test_white_space_at_an_end_is_as_it_is_before_what_follows() -> None:
    vocabulary = line_breaks_before_brackets()
    (one,) = vocabulary.ids("\n\n")
    (half,) = vocabulary.ids("\n")
    assert vocabulary.ids("\n\n", "[[ ## completed ## ]]") == (half, half)
    assert vocabulary.ids("\n\n", "<end>") == (half, half)  # which is a text here
    assert vocabulary.ids("\n\n", " ") == (one,)


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


def prefixed(scheme: str) -> Any:
    """A tokenizer that puts a space before every text, of bytes or of sentencepiece's kind."""
    if scheme == "byte-level":
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=900,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<s>", "</s>"],
            show_progress=False,
        )
    else:
        backend = Tokenizer(models.BPE(unk_token="<unk>"))
        metaspace = pre_tokenizers.Metaspace(prepend_scheme="first")
        backend.pre_tokenizer = pre_tokenizers.Sequence([metaspace, pre_tokenizers.Punctuation()])
        backend.decoder = decoders.Replace("▁", " ")  # it gives the space back
        trainer = trainers.BpeTrainer(
            vocab_size=900,
            initial_alphabet=list(string.printable),
            special_tokens=["<s>", "</s>", "<unk>"],
            show_progress=False,
        )
    backend.train_from_iterator(corpus(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("scheme", ["byte-level", "metaspace"])
def test_a_space_before_every_text_stays_out_of_texts_in_place(scheme: str) -> None:
    found = prefixed(scheme)
    assert found.decode(found("a", add_special_tokens=False).input_ids) == " a"
    vocabulary = Vocabulary(found)
    for text in (" proper logical reasoning.", ".", " the", "$True$"):
        ids = vocabulary.ids(text)
        assert vocabulary.text(ids) == text
    mask = vocabulary.candidate_mask(ASCII)
    assert mask[vocabulary.ids(" the")[0]]
    assert mask[vocabulary.ids(".")[0]]
    assert not mask[vocabulary.ids(" $")[-1]]
    layouts = layouts_of(tokenizer_lm(found), 2)
    assert layouts.prompt_text(layouts.prompt_ids) == PROMPT
    assert layouts.round_trips([layouts.prompt_ids]) == [True]


@pytest.mark.parametrize(("single", "before"), [("<s> $A </s>", 1), ("$A </s> </s>", 0)])
def test_what_a_tokenizer_adds_behind_a_text_is_left_out(single: str, before: int) -> None:
    """An end of text before the reasoning would be read as the end of the row."""
    found = prefixed("byte-level")
    ends = [("<s>", found.bos_token_id), ("</s>", found.eos_token_id)]
    found.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=ends
    )
    assert found("the book").input_ids[-1] == found.eos_token_id
    layouts = layouts_of(tokenizer_lm(found), 2)
    for number, row in enumerate(layouts.rows):
        ids = layouts.context_ids(number, layouts.prompt_ids)
        text = f"{row.example.question} {PROMPT}"
        assert list(ids[before:]) == found(text, add_special_tokens=False).input_ids
        assert list(ids[:before]) == [found.bos_token_id] * before
    assert layouts.round_trips([layouts.prompt_ids]) == [True]


def changed(text: str) -> Any:
    """A tokenizer that loses something of a text."""
    found = tiny_tokenizer("llama3", False)
    found.backend_tokenizer.normalizer = {
        "capitals": normalizers.Lowercase(),
        "digits": normalizers.Replace(Regex("[0-9]"), ""),
        "spaces": normalizers.Replace(" ", ""),
    }[text]
    return found


@pytest.mark.parametrize(
    ("lost", "read"),
    [
        ("capitals", " the answer is 18, or b."),
        ("digits", " The answer is , or B."),
        ("spaces", "Theansweris18,orB."),
    ],
)
def test_a_tokenizer_that_does_not_give_text_back_is_refused(lost: str, read: str) -> None:
    with pytest.raises(ValueError, match=f"does not give text back: .* becomes '{read}', so that"):
        Vocabulary(changed(lost))


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_words_are_the_same_but_for_case_and_space(kind: str) -> None:
    vocabulary = Vocabulary(tokenizer(kind))
    words, texts = vocabulary.words.tolist(), {}
    for i in range(0, len(words), max(1, len(words) // 900)):
        text = vocabulary.text([i]).strip().casefold()
        assert texts.setdefault(words[i], text) == text
    assert len(set(texts.values())) == len(texts) > 300
    small, capital = vocabulary.ids(" t")[-1], vocabulary.ids(" T")[-1]
    assert small != capital
    assert words[small] == words[capital]


@pytest.mark.parametrize("language", list(PROMPTS))
@pytest.mark.parametrize("kind", ["llama3", "sentencepiece"])
def test_candidates_are_of_the_scripts_of_a_prompt(kind: str, language: str) -> None:
    vocabulary = Vocabulary(language_tokenizer(kind, *PROMPTS))
    mask = vocabulary.candidate_mask(Alphabet.of(PROMPTS[language]))
    allowed = [vocabulary.text([i]) for i in mask.nonzero().flatten().tolist()]
    other = {"german": "я一か", "russian": "aü一か", "chinese": "aüяか", "japanese": "aüя"}[
        language
    ]
    assert not any(set(text) & set(other) for text in allowed)
    assert not any(not text.strip() or "\ufffd" in text for text in allowed)
    word = {"german": " über", "russian": " шаг", "chinese": "思考", "japanese": "考えて"}[language]
    (token,) = vocabulary.ids(word)
    assert mask[token]
    assert torch.equal(mask, vocabulary.candidate_mask(Alphabet.of(PROMPTS[language])))
    assert not vocabulary.candidate_mask(ASCII)[token]


def test_ids_with_holes_between_them() -> None:
    """Tokens may be added far behind the others; ids between them name none."""
    found = tiny_tokenizer("llama3")
    size = len(found)
    vocab = {**found.get_vocab(), "zebra": size + 20}

    class Holed:
        def __getattr__(self, name: str) -> Any:
            return getattr(found, name)

        def __call__(self, *texts: Any, **how: Any) -> Any:
            return found(*texts, **how)

        def get_vocab(self) -> dict[str, int]:
            return vocab

    mask = Vocabulary(Holed()).candidate_mask(ASCII)
    assert mask.shape == (size + 21,)
    assert not mask[size:].any()


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
