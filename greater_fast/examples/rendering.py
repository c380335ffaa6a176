"""What a row's text has around the prompt: the question, and what the chat template writes."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass

from greater_fast.config import Config
from greater_fast.examples.data import Example
from greater_fast.examples.extractor import Extractor
from greater_fast.examples.placing.joint import Joint
from greater_fast.model.lm import LM
from greater_fast.model.text.chat_template import has_template, render
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


def around_by_template(
    lm: LM, examples: Sequence[Example], prompt: str, config: Config
) -> tuple[bool, Joint, list[tuple[str, str]]]:
    """Rows as users' messages of question and prompt, in the chat template if there is one.

    Whether texts are read by `Vocabulary.literal`, what joins the prompt, and each row's text
    before and behind both. Errors as of `Renderer.around`.
    """
    written = (config.system_prompt or "", prompt, *(example.question for example in examples))
    literal = any(map(lm.vocabulary.names_special, written))
    joint = Joint(prompt_first=config.prompt_placement == "before")
    renderer, between = Renderer(lm, config, literal), joint.between(prompt)
    around = [renderer.around(example.question.strip(), between) for example in examples]
    return literal, joint, around


def around_as_given(
    lm: LM, examples: Sequence[Example], prompt: str, around: Sequence[tuple[str, str]]
) -> tuple[bool, Joint, list[tuple[str, str]]]:
    """The same for texts that somebody else has rendered, special tokens written out.

    Raises:
        ValueError: a text holds half a character, or some rows alone have a space before the
            prompt.
    """
    texts = [(str(before), str(after)) for before, after in around]
    for number, pair in enumerate(texts):
        for text, place in zip(pair, ("before", "behind"), strict=True):
            _check_text(text, f"the text {place} the prompt of {name_of(examples, number)}")
    have_lead = {before.endswith(" ") for before, _ in texts}
    if len(have_lead) > 1:
        raise ValueError(
            "a space stands before the prompt on some rows and not on others, so that it has not "
            "the same tokens on all: end the texts before it alike"
        )
    lead = " " if True in have_lead else ""
    literal = lm.vocabulary.names_special(prompt)
    hide = lm.vocabulary.hidden if literal else str
    cut = [(hide(before.removesuffix(lead)), hide(after)) for before, after in texts]
    return literal, Joint(lead=lead), cut


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
    return named(examples[number], number)


def named(example: Example, number: int) -> str:
    """As of `name_of`, the row of that number."""
    beginning = " ".join(example.question[:200].split())
    return f"{place_of(example, number)} ({quoted(beginning, 50)})"


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
