"""A program's rows as the search takes them: conversations around the prompt, gold answers."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_origin

import dspy
from dspy.adapters.utils import parse_value

from greater_fast.config import Config
from greater_fast.examples.data import Example
from greater_fast.examples.extractor import Extractor, check_reads_back
from greater_fast.examples.layout import Layouts, build_layouts
from greater_fast.front_ends.dspy.engine import GreaterEngine
from greater_fast.front_ends.dspy.sending import MARK, Sent, Target
from greater_fast.wording import quoted

_ONE_LINE = (str, int, float, bool)  # types of answers, and Literal


@dataclass(frozen=True, slots=True)
class Reply:
    """How an adapter has the reply written: `head`, the answer, `tail`; `marks` fill other fields.

    The `header` ends the head, and names the answer; `is_first` says that no field comes before it.
    """

    target: Target
    adapter: Any
    marks: dict[str, str]
    head: str
    header: str
    tail: str
    is_first: bool

    @classmethod
    def of(cls, target: Target) -> Reply:
        """That of the adapter in use.

        Raises:
            ValueError: the adapter writes answers otherwise, or the answer has more than one line.
        """
        adapter = dspy.settings.adapter or dspy.ChatAdapter()
        signature, answer = target.predictor.signature, target.answer
        kind = signature.output_fields[answer].annotation
        if kind not in _ONE_LINE and get_origin(kind) is not Literal:
            raise ValueError(
                f"answer_field: {answer} is of type {kind}, expected str, int, float, bool or "
                "Literal: an answer of one line"
            )
        name = type(adapter).__name__
        if isinstance(adapter, dspy.JSONAdapter | dspy.TwoStepAdapter):
            raise ValueError(
                f"adapter: got {name}, which has answers escaped, or read by another call: "
                "configure dspy.ChatAdapter or dspy.XMLAdapter"
            )
        marks = {field: f"\ue000{field}\ue000" for field in signature.output_fields}
        written = adapter.format_assistant_message_content(signature, marks)
        head, _, tail = written.partition(marks[answer])
        before = [mark for mark in marks.values() if mark in head]
        header = head.rpartition(before[-1])[2] if before else head
        if any(written.count(mark) != 1 for mark in marks.values()) or not header.strip():
            raise ValueError(
                f"adapter: {name} does not write each output field once, as it is and behind "
                "something that names it: configure dspy.ChatAdapter or dspy.XMLAdapter"
            )
        return cls(target, adapter, marks, head, header, tail, not before)

    def extractor(self) -> Extractor:
        """The header as what asks for the answer; the white space behind an answer closes it."""
        text, behind = self.header.strip(), self.tail.lstrip()
        lead, _, separator = self.header.partition(text)
        closing = self.tail.removesuffix(behind) or "\n"
        return Extractor(text, separator, closing, "the adapter's", lead, behind=behind)

    def stop_texts(self) -> list[str]:
        """What ends a reasoning: the header as it is to be written, or with other space before."""
        header = self.header.rstrip()
        return list(dict.fromkeys((header, header.lstrip())))

    def example(self, row: Any, source: str) -> Example:
        """A row with its gold answer as the adapter writes it; empty where it has none.

        It is written as a value of the field's type: 24 for an int, where the row has 24.0.

        Raises:
            ValueError: the row is none of DSPy's.
        """
        if not isinstance(row, dspy.Example):
            raise ValueError(
                f"{source}: got {type(row).__name__}, expected a dspy.Example, as "
                "dspy.Example(question=..., answer=...).with_inputs('question')"
            )
        question, gold = "\n".join(map(str, row.inputs().values())), row.get(self.target.answer)
        if gold is None:
            return Example(question, "", source=source)
        signature = self.target.predictor.signature
        with contextlib.suppress(ValueError):  # `check_golds` tells of it, where it matters
            gold = parse_value(gold, signature.output_fields[self.target.answer].annotation)
        written = self.adapter.format_assistant_message_content(
            signature, {**self.marks, self.target.answer: gold}
        )
        answer = written[len(self.head) : len(written) - len(self.tail)].strip()
        return Example(question, answer, source=source)

    def check_golds(self, rows: Sequence[Any], examples: Sequence[Example]) -> None:
        """Raise ValueError where a row has no gold answer, one of several lines, or of no use."""
        kind = self.target.predictor.signature.output_fields[self.target.answer].annotation
        for row, example in zip(rows, examples, strict=True):
            if not example.answer:
                raise ValueError(
                    f"{example.source} has no value of {quoted(self.target.answer)}, which the "
                    "search needs: give it one, or name another output field by answer_field="
                )
            gold = row.get(self.target.answer)
            try:
                parse_value(gold, kind)
            except ValueError as error:
                raise ValueError(
                    f"{example.source}: {self.target.answer}: got {quoted(str(gold), 60)}, which "
                    f"is no {kind}: no reply could be right"
                ) from error
        check_reads_back(self.extractor(), (example.answer for example in examples))


def lay_out(
    local: GreaterEngine,
    reply: Reply,
    sent: Sequence[Sent],
    examples: Sequence[Example],
    config: Config,
) -> Layouts:
    """Rows around the prompt, as the local model reads what DSPy sends for them.

    Raises:
        ValueError: the prompt is not in it once, as it is; the model opens a thought before its
            reply; and as of `build_layouts`.
    """
    target, extractor = reply.target, reply.extractor()
    if local.lm.vocabulary.names_special(target.prompt):
        raise ValueError(
            f"the instructions {quoted(target.prompt)} name a special token, which is sent as one: "
            "write them without it"
        )
    stop = _stop_of(target, sent)
    texts = [local.text(each.marked) for each in sent]
    for text, each, example in zip(texts, sent, examples, strict=True):
        if text.count(MARK) != 1:
            raise ValueError(
                f"the instructions stand {text.count(MARK)} times in what is sent for "
                f"{example.source}, expected once: take an adapter, and a model with a chat "
                "template, that write them once"
            )
        if text.replace(MARK, target.prompt) != local.text(each.own):
            raise ValueError(
                "the adapter or the chat template changes the instructions "
                f"{quoted(target.prompt)}: others would be searched than are sent"
            )
    around = {e.source: text.split(MARK) for e, text in zip(examples, texts, strict=True)}
    layouts = build_layouts(
        local.lm,
        examples,
        target.prompt,
        extractor,
        config,
        around=lambda example: (around[example.source][0], around[example.source][1]),
        stop_texts=[*dict.fromkeys((*reply.stop_texts(), *stop))],
        answer_stop_texts=stop,
    )
    if layouts.extractor != extractor:  # it closes a thought first
        raise ValueError(
            f"{local.lm.name} thinks before it replies, and the search is for what it does in the "
            "reply: switch that off in the LM's settings, as by "
            "config={'chat_template_kwargs': {'enable_thinking': False}}"
        )
    return layouts


def _stop_of(target: Target, sent: Sequence[Sent]) -> tuple[str, ...]:
    """What the user has end a reply; one set of texts for all rows.

    Raises:
        ValueError: it is another from row to row.
    """
    found = list(dict.fromkeys(tuple(each.own.config.stop) for each in sent))
    if len(found) != 1:
        raise ValueError(
            f"stop: {target.name} is asked with other stop texts from row to row "
            f"({', '.join(map(str, found[:2]))}): give all rows the same"
        )
    return found[0]
