"""From text to token ids: head, prompt, tail, reasoning, extractor and answer of each example.

Ids are made once and concatenated ever after, never made again from joined text (GREATER, "One
example laid out in token ids").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from greater_fast.config import Config
from greater_fast.examples.data import Example
from greater_fast.examples.extractor import Extractor
from greater_fast.examples.metrics import Metric, measured_value, named_metric
from greater_fast.examples.rendering import Renderer, check_texts, joint_of, name_of
from greater_fast.examples.targets import lay_out_targets
from greater_fast.model.lm import LM
from greater_fast.model.text.chat_template import has_template
from greater_fast.model.text.scripts import ASCII, Alphabet
from greater_fast.model.text.vocabulary import Vocabulary
from greater_fast.wording import quoted

SPARE_ANSWER_TOKENS = 8  # a generated answer may be that much longer than the longest gold one


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
    `literal` says that a text names a special token, so that rows are read by `vocabulary.literal`;
    `end_ids` end a reasoning beside the ids that end a turn. `metric` says what an answer is worth;
    without one it is right or wrong.
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
    vocab_size: int = 0
    alphabet: Alphabet = ASCII
    literal: bool = False
    end_ids: frozenset[int] = frozenset()
    metric: Metric | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def context_ids(self, row: int, prompt_ids: Sequence[int]) -> tuple[int, ...]:
        """Ids of head · prompt · tail: what the reasoning of a row follows."""
        return (*self.rows[row].head_ids, *prompt_ids, *self.rows[row].tail_ids)

    def target_ids(self, row: int) -> tuple[int, ...]:
        """Ids of extractor · answer: what follows the reasoning of a row."""
        return (*self.extractor_ids, *self.rows[row].answer_ids)

    def predicted(self, answer_ids: Sequence[int]) -> str:
        """The answer in what was generated behind the extractor."""
        return self.extractor.cut(self.vocabulary.text(answer_ids))

    def measured(self, row: int, answer_ids: Sequence[int]) -> float:
        """What the metric makes of a row's generated answer; errors as of `measured_value`."""
        assert self.metric is not None
        examples = [row.example for row in self.rows]
        predicted = self.predicted(answer_ids)
        return measured_value(self.metric, predicted, examples[row], name_of(examples, row))

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

    def rendered(self, row: int, prompt_ids: Sequence[int]) -> str:
        """A row's text up to the reasoning, as the model reads it."""
        return self.vocabulary.whole_text(self.context_ids(row, prompt_ids))

    def cuts_a_character(self, token_id: int) -> bool:
        """Whether a token is a part of a character, which no other token can take the place of."""
        return "\ufffd" in self.vocabulary.text([token_id])

    @cached_property
    def candidate_mask(self) -> torch.Tensor:
        """[V] bool on the CPU: ids that this prompt may be changed to."""
        return _fit(self.vocabulary.candidate_mask(self.alphabet), self.vocab_size, False)

    @cached_property
    def words(self) -> torch.Tensor:
        """[V] int64 on the CPU: a number for each id, the same where two would be a stutter."""
        return _fit(self.vocabulary.words, self.vocab_size, -1)

    def round_trips(self, prompts: Sequence[Sequence[int]]) -> list[bool]:
        """Which prompts come back as the same ids when a user pastes their text, on all rows."""
        texts = [_placed(self.prompt_text(ids), self.prompt_first) for ids in prompts]
        vocabulary = self.vocabulary.literal if self.literal else self.vocabulary
        alive = [True] * len(texts)
        for rows in (self.rows[:1], self.rows[1:]):  # the first row spares most the others
            asked = [i for i, ok in enumerate(alive) if ok]
            rendered = [f"{r.before}{texts[i]}{r.after}" for i in asked for r in rows]
            encoded = iter(vocabulary.encode(rendered, special_tokens=self.special_tokens))
            for i in asked:
                expected = [[*r.head_ids, *prompts[i], *r.tail_ids] for r in rows]
                alive[i] = [next(encoded) for _ in rows] == expected
        return alive


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
            it; the extractor's ids depend on the answer; rows do not fit the model's context; the
            named metric is not for such answers.
    """
    prompt = prompt.strip()
    prompt_first = config.prompt_placement == "before"
    check_texts(lm, examples, prompt, extractor, config)
    written = (config.system_prompt or "", prompt, *(example.question for example in examples))
    literal = any(map(lm.vocabulary.names_special, written))
    vocabulary = lm.vocabulary.literal if literal else lm.vocabulary
    renderer, joint = Renderer(lm, config, literal), joint_of(prompt, prompt_first)
    around = [renderer.around(example.question.strip(), joint) for example in examples]
    placed, special_tokens = _placed(prompt, prompt_first), not has_template(lm.tokenizer)
    split = vocabulary.offsets(
        [f"{before}{placed}{after}" for before, after in around], special_tokens=special_tokens
    )
    own = len(prompt) if prompt_first else len(placed)  # a joint before the prompt belongs to it
    spans = [
        _split(ids, offsets, (len(before), len(before) + own), name_of(examples, number))
        for number, ((ids, offsets), (before, _)) in enumerate(zip(split, around, strict=True))
    ]
    prompt_ids = spans[0][1]
    for number, (head, middle, _) in enumerate(spans):
        if middle != prompt_ids:
            raise ValueError(
                f"the prompt has other tokens on {name_of(examples, number)} than on "
                f"{name_of(examples, 0)}: it merges with the text around it"
            )
        if not head:
            raise ValueError(
                "no token stands before the prompt, so the model cannot propose its first token: "
                "use prompt_placement='after'"
            )
    _check_prompt(lm.vocabulary, prompt, prompt_ids, config)
    targets = lay_out_targets(lm, examples, extractor, config)
    rows = tuple(
        Row(head, tail, answer, example, *texts)
        for (head, _, tail), answer, example, texts in zip(
            spans, targets.answer_ids, examples, around, strict=True
        )
    )
    _check_ids(lm, rows, prompt_ids, targets.extractor_ids)
    rows, notes = _fitting(rows, lm, len(targets.extractor_ids), longest_answer, config)
    return Layouts(
        rows=rows,
        prompt_ids=prompt_ids,
        extractor=targets.extractor,
        extractor_ids=targets.extractor_ids,
        vocabulary=lm.vocabulary,
        prompt_first=prompt_first,
        special_tokens=special_tokens,
        notes=notes,
        answer_room=longest_answer,
        vocab_size=lm.vocab_size,
        alphabet=ASCII if config.allowed == "ascii" else Alphabet.of(prompt),
        literal=literal,
        end_ids=targets.end_ids,
        metric=named_metric(config.metric, examples),
    )


def _placed(prompt: str, prompt_first: bool) -> str:
    """A prompt with what joins it to the question."""
    joint = joint_of(prompt, prompt_first)
    return f"{prompt}{joint}" if prompt_first else f"{joint}{prompt}"


def _fit(values: torch.Tensor, size: int, fill: int) -> torch.Tensor:
    """Values [V] of the tokenizer's ids for the embedding's, which may be more or fewer."""
    fitted = values.new_full((size,), fill)
    fitted[: len(values)] = values[:size]
    return fitted


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


def _check_prompt(
    vocabulary: Vocabulary, prompt: str, prompt_ids: Sequence[int], config: Config
) -> None:
    if not 2 <= len(prompt_ids) <= config.max_prompt_tokens:
        raise ValueError(
            f"the prompt {quoted(prompt)} has {len(prompt_ids)} tokens, expected 2 to "
            f"{config.max_prompt_tokens} (max_prompt_tokens)"
        )
    if vocabulary.tokenizer.unk_token_id in prompt_ids:
        raise ValueError(
            f"the tokenizer has no tokens for some characters of the prompt {quoted(prompt)}: "
            f"it reads {quoted(vocabulary.text(prompt_ids).strip())}; write it without them"
        )


def _check_ids(
    lm: LM, rows: Sequence[Row], prompt_ids: Sequence[int], extractor_ids: Sequence[int]
) -> None:
    """Raise ValueError for an id that the model has no embedding for."""
    examples = [row.example for row in rows]
    used = [(name_of(examples, n), (*r.head_ids, *r.tail_ids)) for n, r in enumerate(rows)]
    used += [(f"the answer {quoted(row.example.answer)}", row.answer_ids) for row in rows]
    used += [("the prompt", tuple(prompt_ids)), ("the extractor", tuple(extractor_ids))]
    for what, ids in used:
        if max(ids, default=0) >= lm.vocab_size:
            token = lm.tokenizer.convert_ids_to_tokens(max(ids))
            raise ValueError(
                f"{what} has the token {quoted(token)} with id {max(ids)}, but {lm.name} has "
                f"embeddings for {lm.vocab_size} ids only: take the tokenizer that the model was "
                "trained with, or a chat template without that token"
            )


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
    named = ", ".join(name_of(examples, n) for n in long[:5]) + (", ..." if len(long) > 5 else "")
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
