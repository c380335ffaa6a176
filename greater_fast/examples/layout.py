"""From text to token ids: head, prompt, tail, reasoning, extractor and answer of each example.

Ids are made once and concatenated ever after, never made again from joined text (GREATER, "One
example laid out in token ids").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from greater_fast.config import Config
from greater_fast.examples.data import Example
from greater_fast.examples.extractor import Extractor
from greater_fast.model.lm import LM
from greater_fast.model.vocabulary import Vocabulary

SPARE_ANSWER_TOKENS = 8  # a generated answer may be that much longer than the longest gold one
_SENTINEL = "\ue000prompt\ue000"


@dataclass(frozen=True, slots=True)
class Row:
    """One example: ids around the prompt, ids behind the reasoning, and the text they come from."""

    head_ids: tuple[int, ...]
    tail_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    example: Example
    before: str
    after: str


@dataclass(frozen=True, eq=False)
class Layouts:
    """All rows of one set, the prompt they were made with, and the extractor they share.

    `answer_room` is for answers longer than these rows': those of the rows that are searched on.
    """

    rows: tuple[Row, ...]
    prompt_ids: tuple[int, ...]
    extractor: Extractor
    extractor_ids: tuple[int, ...]
    vocabulary: Vocabulary
    prompt_first: bool
    special_tokens: bool
    notes: tuple[str, ...] = ()
    answer_room: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def context_ids(self, row: int, prompt_ids: Sequence[int]) -> tuple[int, ...]:
        """Ids of head · prompt · tail: what the reasoning of a row follows."""
        return (*self.rows[row].head_ids, *prompt_ids, *self.rows[row].tail_ids)

    def target_ids(self, row: int) -> tuple[int, ...]:
        """Ids of extractor · answer: what follows the reasoning of a row."""
        return (*self.extractor_ids, *self.rows[row].answer_ids)

    def prompt_span(self, row: int, prompt_ids: Sequence[int]) -> tuple[int, int]:
        """Where the prompt stands in a row, [start, stop)."""
        start = len(self.rows[row].head_ids)
        return start, start + len(prompt_ids)

    @property
    def longest_answer(self) -> int:
        """Tokens of the longest gold answer, its closing mark included."""
        return max(len(row.answer_ids) for row in self.rows)

    def longest_sequence(self, config: Config) -> int:
        """Tokens of a row at most: prompt grown, reasoning in full, extractor and answer."""
        around = max(len(row.head_ids) + len(row.tail_ids) for row in self.rows)
        answer = max(self.longest_answer, self.answer_room) + SPARE_ANSWER_TOKENS
        limits = config.max_prompt_tokens + config.max_new_tokens
        return around + limits + len(self.extractor_ids) + answer

    def prompt_text(self, prompt_ids: Sequence[int]) -> str:
        """The prompt as a user writes it."""
        return self.vocabulary.text(prompt_ids).strip()

    def round_trips(self, prompts: Sequence[Sequence[int]]) -> list[bool]:
        """Which prompts come back as the same ids when a user pastes their text, on all rows."""
        texts = [self._placed(self.prompt_text(ids)) for ids in prompts]
        alive = [True] * len(texts)
        for rows in (self.rows[:1], self.rows[1:]):  # the first row spares most the others
            asked = [i for i, ok in enumerate(alive) if ok]
            rendered = [f"{r.before}{texts[i]}{r.after}" for i in asked for r in rows]
            encoded = iter(self.vocabulary.encode(rendered, special_tokens=self.special_tokens))
            for i in asked:
                expected = [[*r.head_ids, *prompts[i], *r.tail_ids] for r in rows]
                alive[i] = [next(encoded) for _ in rows] == expected
        return alive

    def _placed(self, prompt: str) -> str:
        return prompt if self.prompt_first else f" {prompt}"


def build_layouts(
    lm: LM,
    examples: Sequence[Example],
    prompt: str,
    extractor: Extractor,
    config: Config,
    longest_answer: int = 0,
) -> Layouts:
    """Lay out examples around a prompt, with room for answers of `longest_answer` tokens at least.

    Raises:
        ValueError: the prompt has fewer than 2 tokens or too many; it merges with the text around
            it; the extractor's ids depend on the answer; rows do not fit the model's context.
    """
    prompt = prompt.strip()
    prompt_first = config.prompt_placement == "before"
    has_template = bool(getattr(lm.tokenizer, "chat_template", None))
    if not has_template and config.system_prompt is not None:
        raise ValueError(f"{lm.name} has no chat template, so system_prompt has no place: unset it")
    placed = prompt if prompt_first else f" {prompt}"
    around = [_around(lm, example.question.strip(), config) for example in examples]
    split = lm.vocabulary.offsets(
        [f"{before}{placed}{after}" for before, after in around], special_tokens=not has_template
    )
    spans = [
        _split(ids, offsets, (len(before), len(before) + len(placed)), _name(examples, number))
        for number, ((ids, offsets), (before, _)) in enumerate(zip(split, around, strict=True))
    ]
    prompt_ids = spans[0][1]
    for number, (head, middle, _) in enumerate(spans):
        if middle != prompt_ids:
            raise ValueError(
                f"the prompt has other tokens on {_name(examples, number)} than on row 0: "
                "it merges with the text around it"
            )
        if not head:
            raise ValueError(
                "no token stands before the prompt, so the model cannot propose its first token: "
                "use prompt_placement='after'"
            )
    _check_prompt(prompt, prompt_ids, config)
    extractor_ids = lm.vocabulary.ids(extractor.in_place())
    rows = tuple(
        Row(head, tail, _answer_ids(lm.vocabulary, extractor, extractor_ids, e), e, *texts)
        for (head, _, tail), e, texts in zip(spans, examples, around, strict=True)
    )
    rows, notes = _fitting(rows, lm, len(extractor_ids), longest_answer, config)
    return Layouts(
        rows=rows,
        prompt_ids=prompt_ids,
        extractor=extractor,
        extractor_ids=extractor_ids,
        vocabulary=lm.vocabulary,
        prompt_first=prompt_first,
        special_tokens=not has_template,
        notes=notes,
        answer_room=longest_answer,
    )


def _around(lm: LM, question: str, config: Config) -> tuple[str, str]:
    """Rendered text before and after the prompt, the space that joins it to the question aside.

    That space belongs to the prompt where it follows the question, else to the text after it.
    """
    if config.prompt_placement == "before":
        message, space = f"{_SENTINEL} {question}", ""
    else:
        message, space = f"{question} {_SENTINEL}", " "
    text = _render(lm, message, config)
    before, _, after = text.partition(_SENTINEL)
    if message not in text or _SENTINEL in after:
        raise ValueError(
            f"the chat template of {lm.name} changes the user's message, so the prompt cannot be "
            "placed in it"
        )
    return before.removesuffix(space), after


def _render(lm: LM, message: str, config: Config) -> str:
    if not getattr(lm.tokenizer, "chat_template", None):
        return message
    from jinja2.exceptions import TemplateError

    messages: list[dict[str, Any]] = [{"role": "user", "content": message}]
    if config.system_prompt is not None:
        messages.insert(0, {"role": "system", "content": config.system_prompt})
    try:
        text: str = lm.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **config.chat_template_kwargs
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise ValueError(
            f"the chat template of {lm.name} refused the message: {error}; "
            "see system_prompt and chat_template_kwargs"
        ) from error
    return text


def _split(
    ids: Sequence[int], offsets: Sequence[tuple[int, int]], span: tuple[int, int], row: str
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Ids before, in and behind the characters [start, stop) of `span`."""
    start, stop = span
    inside = [i for i, (a, b) in enumerate(offsets) if b > start and a < stop]
    if not inside or any(offsets[i][0] < start or offsets[i][1] > stop for i in inside):
        raise ValueError(
            f"on {row} the tokenizer merges the prompt with the text around it: "
            "change the prompt's first or last word"
        )
    first, last = inside[0], inside[-1] + 1
    return tuple(ids[:first]), tuple(ids[first:last]), tuple(ids[last:])


def _name(examples: Sequence[Example], number: int) -> str:
    """A row for a reader: its place in the set, from 0, and how its question begins."""
    question = " ".join(examples[number].question.split())
    return f"row {number} ({question[:40]!r}{'...' if len(question) > 40 else ''})"


def _check_prompt(prompt: str, prompt_ids: Sequence[int], config: Config) -> None:
    if not 2 <= len(prompt_ids) <= config.max_prompt_tokens:
        raise ValueError(
            f"the prompt {prompt!r} has {len(prompt_ids)} tokens, expected 2 to "
            f"{config.max_prompt_tokens} (max_prompt_tokens)"
        )


def _answer_ids(
    vocabulary: Vocabulary, extractor: Extractor, extractor_ids: tuple[int, ...], example: Example
) -> tuple[int, ...]:
    """Ids of the answer behind the extractor, tokenised as one string.

    Raises:
        ValueError: the extractor's ids depend on the answer, or no token is left for the answer.
    """
    ids = vocabulary.ids(extractor.in_place() + extractor.answer_in_place(example.answer))
    start = len(extractor_ids)
    if ids[:start] != extractor_ids:
        raise ValueError(
            f"the tokenizer merges the end of the extractor {extractor.text!r} with the answer "
            f"{example.answer!r}: end the extractor with a word, or with a space behind its mark"
        )
    if len(ids) == start:
        raise ValueError(
            f"the extractor {extractor.text!r} leaves no token for the answer {example.answer!r}"
        )
    return ids[start:]


def _fitting(
    rows: tuple[Row, ...], lm: LM, num_extractor_ids: int, longest_answer: int, config: Config
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """The rows that fit the model's context with prompt, reasoning and answer at their longest."""
    if lm.max_context is None:
        return rows, ()
    answer = max(longest_answer, *(len(r.answer_ids) for r in rows)) + SPARE_ANSWER_TOKENS
    room = lm.max_context - config.max_prompt_tokens - config.max_new_tokens - num_extractor_ids
    needs = [len(r.head_ids) + len(r.tail_ids) + answer for r in rows]
    long = [number for number, need in enumerate(needs) if need > room]
    if not long:
        return rows, ()
    examples = [row.example for row in rows]
    named = ", ".join(_name(examples, n) for n in long[:5]) + (", ..." if len(long) > 5 else "")
    what = (
        f"{len(long)} of {len(rows)} rows do not fit the context of {lm.max_context} tokens with "
        f"{config.max_prompt_tokens} prompt and {config.max_new_tokens} reasoning tokens: "
        f"{named}; the longest needs {max(needs) - room} tokens more"
    )
    if config.on_long == "error":
        raise ValueError(f"{what}; lower max_new_tokens or max_prompt_tokens, or on_long='drop'")
    kept = tuple(row for number, row in enumerate(rows) if number not in set(long))
    if not kept:
        raise ValueError(f"{what}; dropping them leaves none")
    return kept, (f"dropped: {what}",)
