"""What a row's text has around the prompt: the question, and what the chat template writes."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass

from greater_fast.config import Config
from greater_fast.examples.data import Example
from greater_fast.examples.extractor import Extractor
from greater_fast.model.lm import LM
from greater_fast.model.text.chat_template import has_template, render
from greater_fast.model.text.scripts import space_before, space_behind
from greater_fast.wording import quoted

_SENTINEL = "\ue000prompt\ue000"


@dataclass(frozen=True, slots=True)
class Renderer:
    """Writes rows for one model; `literal` where a text of the user's names a special token."""

    lm: LM
    config: Config
    literal: bool

    def around(self, question: str, joint: str) -> tuple[str, str]:
        """A row's text before and after the prompt, the joint of prompt and question aside.

        With `literal`, special tokens of the template are hidden (`Vocabulary.hidden`).

        Raises:
            ValueError: the template refuses the messages, or changes or leaves out one of them.
        """
        before, after = ("", f"{joint}{question}")
        if self.config.prompt_placement == "after":
            before, after = f"{question}{joint}", ""
        message = f"{before}{_SENTINEL}{after}"
        text = self._render(message)
        start, found, end = text.partition(message)
        if not found or _SENTINEL in end:
            raise ValueError(
                f"the chat template of {self.lm.name} changes the user's message, so the prompt "
                "cannot be placed in it"
            )
        before, after = before.removesuffix(joint), after.removeprefix(joint)
        return f"{self._template_text(start)}{before}", f"{after}{self._template_text(end)}"

    def _render(self, message: str) -> str:
        if not has_template(self.lm.tokenizer):
            return message
        config, messages = self.config, [{"role": "user", "content": message}]
        if config.system_prompt is not None:
            messages.insert(0, {"role": "system", "content": config.system_prompt})
        day = datetime.date.fromisoformat(config.template_date or _today())
        try:
            text = render(self.lm.tokenizer, messages, config.chat_template_kwargs, day)
        except ValueError as error:
            raise ValueError(
                f"the chat template of {self.lm.name} refused the message: {error}; "
                "see system_prompt and chat_template_kwargs"
            ) from error
        if config.system_prompt is not None and config.system_prompt.strip() not in text:
            raise ValueError(
                f"the chat template of {self.lm.name} leaves out or changes the system message: "
                "unset system_prompt, and put its text into the questions or the prompt"
            )
        return text

    def _template_text(self, text: str) -> str:
        """What stands around the user's message; the system message in it is the user's too."""
        if not self.literal:
            return text
        system = (self.config.system_prompt or "").strip()
        parts = text.split(system, 1) if system else [text]
        return system.join(map(self.lm.vocabulary.hidden, parts))


def joint_of(prompt: str, prompt_first: bool) -> str:
    """What joins a prompt to the question: the prompt's script decides whether it is a space.

    It decides alone, for the prompt has the same tokens on all rows.
    """
    return space_behind(prompt) if prompt_first else space_before(prompt)


def check_texts(
    lm: LM, examples: Sequence[Example], prompt: str, extractor: Extractor, config: Config
) -> None:
    """Raise ValueError for a text that cannot be read, or that has no place."""
    for name in ("system_prompt", "chat_template_kwargs"):
        if getattr(config, name) and not has_template(lm.tokenizer):
            raise ValueError(f"{lm.name} has no chat template, so {name} has no place: unset it")
    _check_text(prompt, "the prompt")
    _check_text(extractor.text + extractor.closing, "the extractor")
    _check_text(config.system_prompt or "", "system_prompt")
    _check_text(json.dumps(config.chat_template_kwargs, ensure_ascii=False), "chat_template_kwargs")
    for number, example in enumerate(examples):
        _check_text(example.question, f"the question of {place_of(example, number)}")
        _check_text(example.answer, f"the answer of {name_of(examples, number)}")


def name_of(examples: Sequence[Example], number: int) -> str:
    """A row for a reader: where it stands, and how its question begins."""
    beginning = " ".join(examples[number].question[:200].split())
    return f"{place_of(examples[number], number)} ({quoted(beginning, 50)})"


def place_of(example: Example, number: int) -> str:
    """Where a row stands: in its file, or else by its number in the set that was drawn, from 0."""
    return example.source or f"row {number}"


def _check_text(text: str, what: str) -> None:
    """Raise ValueError where a text holds half a character, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} holds half a character (a lone surrogate, {text[error.start]!r}) at "
            f"{error.start}: it was decoded wrongly, read it as UTF-8"
        ) from None


def _today() -> str:
    return datetime.date.today().isoformat()
