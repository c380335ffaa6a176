"""From text to token ids: head, prompt, tail, reasoning, extractor and answer of each example.

Ids are made once and concatenated ever after, never made again from joined text (GREATER, "One
example laid out in token ids").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from greater_fast.config import Config
from greater_fast.examples.data import Example
from greater_fast.examples.extractor import Extractor
from greater_fast.examples.metrics import Metric, measured_value, named_metric
from greater_fast.examples.placing.fitting import which_fit
from greater_fast.examples.placing.joint import Joint
from greater_fast.examples.placing.span import check_embedded, check_prompt_ids, place_prompt
from greater_fast.examples.rendering import (
    around_as_given,
    around_by_template,
    check_texts,
    name_of,
    named,
)
from greater_fast.examples.targets import lay_out_targets
from greater_fast.model.lm import LM
from greater_fast.model.text.chat_template import has_template
from greater_fast.model.text.scripts import ASCII, Alphabet
from greater_fast.model.text.stop_texts import StopTexts
from greater_fast.model.text.vocabulary import HALF_CHARACTER, Vocabulary
from greater_fast.wording import quoted

# The text that the model reads before and behind the prompt, of a row.
Around = Callable[[Example], tuple[str, str]]
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
    `end_ids` end a reasoning beside the ids that end a turn, and so does `stop`;
    `answer_stop` ends an answer that is generated. `metric` says what an answer is worth; without
    one it is right or wrong.
    """

    rows: tuple[Row, ...]
    prompt_ids: tuple[int, ...]
    extractor: Extractor
    extractor_ids: tuple[int, ...]
    vocabulary: Vocabulary
    joint: Joint
    special_tokens: bool
    notes: tuple[str, ...] = ()
    answer_room: int = 0
    vocab_size: int = 0
    alphabet: Alphabet = ASCII
    literal: bool = False
    end_ids: frozenset[int] = frozenset()
    metric: Metric | None = None
    stop: StopTexts | None = None
    answer_stop: StopTexts | None = None
    max_prompt_tokens: int = 0
    only_ascii: bool = False

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
        predicted, example = self.predicted(answer_ids), self.rows[row].example
        return measured_value(self.metric, predicted, example, named(example, row))

    def prompt_span(self, row: int, prompt_ids: Sequence[int]) -> tuple[int, int]:
        """Where the prompt stands in a row, [start, stop)."""
        start = len(self.rows[row].head_ids)
        return start, start + len(prompt_ids)

    @cached_property  # it is asked for with every row
    def longest_answer(self) -> int:
        """Tokens of the longest gold answer, its closing mark included."""
        return max(len(row.answer_ids) for row in self.rows)

    @property
    def answer_limit(self) -> int:
        """Tokens of a generated answer at most; of rows beside those of a search, as theirs."""
        return max(self.longest_answer, self.answer_room) + SPARE_ANSWER_TOKENS

    def longest_sequence(self, config: Config) -> int:
        """Tokens of a row at most: prompt grown, reasoning in full, extractor and answer."""
        around = max(len(row.head_ids) + len(row.tail_ids) for row in self.rows)
        limits = config.max_prompt_tokens + config.max_new_tokens
        return around + limits + len(self.extractor_ids) + self.answer_limit

    def prompt_text(self, prompt_ids: Sequence[int]) -> str:
        """The prompt as a user writes it."""
        return self.vocabulary.text(prompt_ids).strip()

    def rendered(self, row: int, prompt_ids: Sequence[int]) -> str:
        """A row's text up to the reasoning, as the model reads it."""
        return self.vocabulary.whole_text(self.context_ids(row, prompt_ids))

    def cuts_a_character(self, token_id: int) -> bool:
        """Whether a token is a part of a character, which no other token can take the place of."""
        return HALF_CHARACTER in self.vocabulary.text([token_id])

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
        texts = [self.joint.placed(self.prompt_text(ids)) for ids in prompts]
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

    def with_prompt(self, prompt: str) -> Layouts:
        """The same rows with another prompt, and the letters that this one may be changed to.

        Raises:
            ValueError: the prompt has fewer than 2 tokens or too many, or merges with the text
                around it.
        """
        prompt = prompt.strip()
        vocabulary, rows = self.vocabulary, self.rows
        literal = self.literal or vocabulary.names_special(prompt)
        if literal and not self.literal:  # until now all special tokens are the template's
            hide = vocabulary.hidden
            rows = tuple(replace(r, before=hide(r.before), after=hide(r.after)) for r in rows)
        examples = [row.example for row in rows]
        spans = place_prompt(
            vocabulary.literal if literal else vocabulary,
            [(row.before, row.after) for row in rows],
            prompt,
            self.joint,
            [name_of(examples, number) for number in range(len(rows))],
            special_tokens=self.special_tokens,
        )
        prompt_ids = spans[0][1]
        check_prompt_ids(vocabulary, prompt, prompt_ids, self.max_prompt_tokens)
        check_embedded(vocabulary, "the prompt", prompt_ids, self.vocab_size)
        return replace(
            self,
            rows=tuple(
                replace(row, head_ids=head, tail_ids=tail)
                for row, (head, _, tail) in zip(rows, spans, strict=True)
            ),
            prompt_ids=prompt_ids,
            literal=literal,
            alphabet=ASCII if self.only_ascii else Alphabet.of(prompt),
        )


def build_layouts(  # noqa: PLR0913 (one entry point, three of its arguments by keyword)
    lm: LM,
    examples: Sequence[Example],
    prompt: str,
    extractor: Extractor,
    config: Config,
    longest_answer: int = 0,
    *,
    around: Around | None = None,
    stop_texts: Sequence[str] = (),
    answer_stop_texts: Sequence[str] = (),
) -> Layouts:
    """Lay out examples around a prompt, with room for answers of `longest_answer` tokens at least.

    Args:
        lm: the model; or its outline, of which the tokenizer is asked alone.
        examples: the rows.
        prompt: the prompt, which stands beside the question.
        extractor: what asks for the answer, behind the reasoning.
        config: settings.
        longest_answer: tokens.
        around: a row's text before and behind the prompt, as the model reads it, in place of a
            user's message of question and prompt; a chat template's special tokens are written out
            in it. A space that ends the text before the prompt belongs to the prompt. The settings
            of the placement, the system prompt and the template then have no say.
        stop_texts: texts that end a reasoning, as an end of turn does.
        answer_stop_texts: texts that end an answer that is generated, in an evaluation and, where
            a metric measures them, in a search.

    Raises:
        ValueError: the prompt has fewer than 2 tokens or too many; it merges with the text around
            it; the extractor's ids depend on the answer; rows do not fit the model's context; the
            named metric is not for such answers; stop texts as of `StopTexts`.
    """
    prompt = prompt.strip()
    stop = StopTexts.of(lm.vocabulary, stop_texts)
    answer_stop = StopTexts.of(lm.vocabulary, answer_stop_texts, "answer_stop_texts")
    check_texts(lm, examples, prompt, extractor, config)
    if around is None:
        literal, joint, texts = around_by_template(lm, examples, prompt, config)
    else:
        given = [around(example) for example in examples]
        literal, joint, texts = around_as_given(lm, examples, prompt, given)
    names = [name_of(examples, number) for number in range(len(examples))]
    special_tokens = not has_template(lm.tokenizer)
    spans = place_prompt(
        lm.vocabulary.literal if literal else lm.vocabulary,
        texts,
        prompt,
        joint,
        names,
        special_tokens=special_tokens,
    )
    prompt_ids = spans[0][1]
    check_prompt_ids(lm.vocabulary, prompt, prompt_ids, config.max_prompt_tokens)
    targets = lay_out_targets(lm, examples, extractor, config)
    rows = tuple(
        Row(head, tail, answer, example, *text)
        for (head, _, tail), answer, example, text in zip(
            spans, targets.answer_ids, examples, texts, strict=True
        )
    )
    used = [(name, (*row.head_ids, *row.tail_ids)) for name, row in zip(names, rows, strict=True)]
    used += [(f"the answer {quoted(row.example.answer)}", row.answer_ids) for row in rows]
    used += [("the prompt", prompt_ids), ("the extractor", targets.extractor_ids)]
    for what, ids in used:
        check_embedded(lm.vocabulary, what, ids, lm.vocab_size)
    answer = max(longest_answer, *(len(row.answer_ids) for row in rows)) + SPARE_ANSWER_TOKENS
    behind = len(targets.extractor_ids) + answer
    needs = [len(row.head_ids) + len(row.tail_ids) + behind for row in rows]
    kept, notes = which_fit(lm, needs, names, config)
    only_ascii = config.allowed == "ascii"
    return Layouts(
        rows=tuple(rows[number] for number in kept),
        prompt_ids=prompt_ids,
        extractor=targets.extractor,
        extractor_ids=targets.extractor_ids,
        vocabulary=lm.vocabulary,
        joint=joint,
        special_tokens=special_tokens,
        notes=notes,
        answer_room=longest_answer,
        vocab_size=lm.vocab_size,
        alphabet=ASCII if only_ascii else Alphabet.of(prompt),
        literal=literal,
        end_ids=targets.end_ids,
        metric=named_metric(config.metric, examples),
        stop=stop,
        answer_stop=answer_stop,
        max_prompt_tokens=config.max_prompt_tokens,
        only_ascii=only_ascii,
    )


def _fit(values: torch.Tensor, size: int, fill: int) -> torch.Tensor:
    """Values [V] of the tokenizer's ids for the embedding's, which may be more or fewer."""
    fitted = values.new_full((size,), fill)
    fitted[: len(values)] = values[:size]
    return fitted
