import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greater_fast.model.text.scripts import (
    ASCII,
    WORD_APART,
    Alphabet,
    ends_sentence,
    script_of,
    space_before,
    space_behind,
    written_together,
)


@pytest.mark.parametrize(
    ("prompt", "scripts"),
    [
        ("Use proper logic, 3 times!", {"ASCII"}),
        ("", {"ASCII"}),
        ("123 😀 ❤️.", {"ASCII"}),
        ("Überlege gut.", {"ASCII", "LATIN"}),
        ("u\u0308ber", {"ASCII", "LATIN"}),  # written in two characters
        ("Думай шаг за шагом.", {"CYRILLIC"}),
        ("Думай step by step.", {"CYRILLIC", "ASCII"}),
        ("请一步一步思考。", {"CJK"}),
        ("かんがえて", {"CJK", "HIRAGANA", "KATAKANA"}),
        ("단계별로 생각하세요.", {"HANGUL"}),
        ("فكر خطوة بخطوة؟", {"ARABIC"}),
        ("चरण दर चरण सोचें।", {"DEVANAGARI"}),
        ("Σκέψου βήμα", {"GREEK"}),
        ("חשוב צעד", {"HEBREW"}),
    ],
)
def test_the_scripts_of_a_prompt(prompt: str, scripts: set[str]) -> None:
    assert Alphabet.of(prompt).scripts == scripts
    if scripts == {"ASCII"}:
        assert Alphabet.of(prompt) == ASCII


@pytest.mark.parametrize(
    ("prompt", "allowed", "not_allowed"),
    [
        (
            "Use logic.",
            [" the", "The", "a", ".", ","],
            [" ", "", "  the", " a b", "the ", " .", "é", " für", "7", "!", "。", "\n", "a.", "ﬁ"],
        ),
        ("Überlege.", [" für", " the", "ß", "ő", "."], ["ж", " ж", "1", "請", " ", "�", "ü "]),
        ("Думай.", [" шаг", "ё", "."], [" the", "a", "ü", " "]),
        (
            "请思考。",
            ["一步", "請", "。", "，", "、", ".", ","],
            ["a", " 请", "か", " ", "？", "ж", "一 步"],
        ),
        ("考えて", ["か", "カード", "々", "一歩", "。"], ["a", " か", "한"]),
        ("सोचें।", ["सो", " में", "ें", "।"], ["a", "シ", "؟", " ें"]),
        ("فكر", ["خطوة", " خطوة", "،", "۔"], ["a", "।"]),
        ("ভাবো। তারপর", [" তা", "।"], ["a"]),
    ],
)
def test_what_a_token_may_be_made_of(
    prompt: str, allowed: list[str], not_allowed: list[str]
) -> None:
    alphabet = Alphabet.of(prompt)
    assert alphabet.spelled(allowed) == [True] * len(allowed)
    assert alphabet.spelled(not_allowed) == [False] * len(not_allowed)


@given(token=st.text(max_size=6))
def test_ascii_tokens_are_those_of_the_paper(token: str) -> None:
    word = token[1:] if token[:1] == " " else token
    letters = word.isascii() and word.isalpha()
    assert ASCII.spelled([token]) == [token in (".", ",") or letters]


@given(prompt=st.text())
def test_every_letter_of_a_prompt_is_allowed(prompt: str) -> None:
    prompt = unicodedata.normalize("NFC", prompt)
    letters = [c for c in prompt if c.isalpha() and script_of(c)]
    assert all(Alphabet.of(prompt).spelled(letters))


@pytest.mark.parametrize(
    ("text", "before", "behind"),
    [
        ("Use logic.", " ", " "),
        ("", " ", " "),
        ("请思考。", "", ""),
        ("「考えて」", "", ""),
        ("！请", "", ""),
        ("คิดทีละขั้น", "", ""),
        ("생각하세요", " ", " "),
        ("Think 请", " ", ""),
        ("请 think", "", " "),
        ("😀 think", " ", " "),
        ("फिर।", " ", " "),
    ],
)
def test_what_joins_a_text_to_others(text: str, before: str, behind: str) -> None:
    assert (space_before(text), space_behind(text)) == (before, behind)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "Think.",
            "Think!",
            "Really?",
            "Well...",
            "Well…",
            "思考。",
            "思考！",
            "思考？",
            "思考．",
        ),
        *("فكر؟", "سوچیں۔", "सोचें।", "Մտածիր։", "ያስቡ።", "គិត។", "စဉ်းစားပါ။", "བསམ།"),
        *('He said "think."', "(Think.)", "「考えて。」", "Think.”", "**Think.**", "«Думай.»"),
    ],
)
def test_texts_that_end_a_sentence(text: str) -> None:
    assert ends_sentence(text)


@pytest.mark.parametrize(
    "text",
    ["", "Think", "Think,", "3.5", "(think)", '"', "思考，", "思考、", "思考", "Think:", "a. b"],
)
def test_texts_that_end_none(text: str) -> None:
    assert not ends_sentence(text)


def test_letters_of_scripts_with_and_without_spaces_are_told_apart_by_a_pattern() -> None:
    apart = re.compile(WORD_APART)
    others = re.compile("LATIN|GREEK|CYRILLIC|ARABIC|HEBREW|HANGUL|DEVANAGARI|DIGIT")
    for char in map(chr, range(0x30000)):
        if not re.match(r"\w", char):
            assert not apart.match(char)
        elif written_together(char) and script_of(char) != "":
            assert not apart.match(char) or unicodedata.category(char)[0] != "L", hex(ord(char))
        elif others.match(unicodedata.name(char, "")):
            assert apart.match(char), hex(ord(char))
