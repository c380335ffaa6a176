"""Sentences in other languages than English, and tiny tokenizers that know them in part."""

import functools
import random
from typing import Any

from tests.tiny import tiny_tokenizer

WORDS = {
    "german": "Überlege|Schritt|für|Frage|Prüfe|über|Größe|Lösung|löse|nächste|Antwort|dann|gib"
    "|zähle|früh|schön|hören|möglich|natürlich|später|erklären|Bücher|größte|müssen|können",
    "russian": "думай|шаг|шагом|ответ|дай|затем|вопрос|число|слово|верный|проверь|реши|потом"
    "|считай|книга|город|ещё|один|снова|задача|правильно|сначала|объясни|точно",
    "chinese": "请|一步|思考|然后|回答|问题|给出|正确|答案|最后|仔细|计算|数字|检查|再|认真"
    "|分析|每|的|了|是",
    "japanese": "一歩|ずつ|考えて|ください|答え|問題|を|の|に|は|正しい|よく|そして|最後|カード"
    "|データ",
}
PROMPTS = {
    "german": "Überlege Schritt für Schritt und prüfe die Lösung.",
    "russian": "Думай шаг за шагом, затем дай ответ.",
    "chinese": "请一步一步思考，然后回答问题。",
    "japanese": "一歩ずつよく考えてください。",
}


def sentences(language: str, number: int = 500) -> list[str]:
    """Sentences of a language's words in any order, as its script writes them."""
    rng, words = random.Random(0), WORDS[language].split("|")
    joint, stop, comma = (" ", ".", ",") if " " in PROMPTS[language] else ("", "。", "，")
    lines = []
    for _ in range(number):
        first, second = (joint.join(rng.choices(words, k=rng.randint(2, 6))) for _ in range(2))
        lines.append(f"{first}{comma}{joint}{second}{stop}")
    return lines


@functools.cache
def language_tokenizer(kind: str, *languages: str) -> Any:
    """A tiny tokenizer for English and these languages; never to be changed."""
    return tiny_tokenizer(kind, more=[line for name in languages for line in sentences(name)])
