"""In which language rows seem to be written, for a derived extractor is in English."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice

from greater_fast.examples.data import Example
from greater_fast.examples.extractor import Extractor
from greater_fast.model.text.scripts import script_of

_NUM_READ = 200  # questions
_LEAST_WORDS = 20  # fewer tell nothing
_LEAST_SHARE = 0.05  # of all words, that are small words of a language
# Words that hardly a sentence does without; those that several languages have count for each.
_SMALL_WORDS = {
    "English": "the of and is to in a how many what which for are that with not was it he she on",
    "German": "der die das und ist nicht ein eine wie viele welche wird sind von mit für auf den",
    "French": "le la les et est pas une des du combien quel quelle dans pour qui sont que il",
    "Spanish": "el la los las y es una del cuántos qué cuál en para que son con de por",
    "Italian": "il la lo gli e è non una del quanti quale che di per sono con della ha",
    "Portuguese": "o a os as e é não uma do da quantos qual que em para são com de",
    "Dutch": "de het een en is niet hoeveel welke van voor met zijn wordt op te dat er",
}
_SENTENCES = {
    "German": "Die endgültige Antwort lautet {answer}.",
    "French": "La réponse finale est {answer}.",
    "Spanish": "La respuesta final es {answer}.",
    "Italian": "La risposta finale è {answer}.",
    "Portuguese": "A resposta final é {answer}.",
    "Dutch": "Het uiteindelijke antwoord is {answer}.",
}
_SETS = {name: frozenset(words.split()) for name, words in _SMALL_WORDS.items()}


def language_of(texts: Iterable[str]) -> str | None:
    """The language or script that texts are in, as "German" or "Cyrillic"; None where unsure.

    It is told by small words, for a few languages of Latin letters, and by other letters.
    """
    words = [word for text in islice(texts, _NUM_READ) for word in _words(text)]
    if len(words) < _LEAST_WORDS:
        return _script(words)
    counts = {name: sum(word in own for word in words) for name, own in _SETS.items()}
    (first, most), (_, next_most) = Counter(counts).most_common(2)
    if most >= _LEAST_SHARE * len(words) and most > next_most:
        return first
    return _script(words)


def language_note(extractor: Extractor, examples: Sequence[Example]) -> tuple[str, ...]:
    """A line where a derived extractor is in English and the rows seem not to be; else none."""
    if not extractor.is_derived:
        return ()
    found = language_of(example.question for example in examples)
    if found in (None, "English"):
        return ()
    own = f", as {_SENTENCES[found]!r}" if found in _SENTENCES else ""
    return (
        f"the extractor was derived in English, and the questions seem to be {found}: it may help "
        f"to give one in their language{own} (extractor)",
    )


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text[:10_000].casefold())


def _script(words: Sequence[str]) -> str | None:
    """The script of most letters, where that is not Latin."""
    counts = Counter(script_of(letter) for word in words for letter in word)
    script, number = max(counts.items(), key=lambda item: item[1], default=("", 0))
    if script in ("", "LATIN") or 2 * number <= sum(counts.values()):
        return None
    return script if script == "CJK" else script.title()
