"""A thought that stays open up to the extractor: where it ends, and what closes it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from greater_fast.config import Config
from greater_fast.examples.cutting import THOUGHTS
from greater_fast.examples.extractor import Extractor
from greater_fast.examples.rendering import Renderer
from greater_fast.model.lm import LM
from greater_fast.model.text.chat_template import has_template

_SWITCHES = ("enable_thinking", "thinking")  # of templates whose models open thoughts themselves


@dataclass(frozen=True, slots=True)
class Thought:
    """What closes an open thought, as text and as ids; `end_ids` end the reasoning there.

    All are empty where no thought is open.
    """

    closing: str = ""
    closing_ids: tuple[int, ...] = ()
    end_ids: frozenset[int] = frozenset()

    def closed_before(self, extractor: Extractor) -> Extractor:
        """The extractor as it follows the closing mark: on lines of its own."""
        if not self.closing:
            return extractor
        text = extractor.text.removeprefix(self.closing).strip() or extractor.text
        origin = f"{extractor.origin}, behind {self.closing!r}, where the reasoning ends"
        return dataclasses.replace(extractor, text=text, origin=origin, joint="\n\n")


def open_thought(lm: LM, config: Config) -> Thought:
    """The thought that the model is in where the extractor is written, if it is in one.

    Either the template opens it at the end of a row, or the model does: then the template closes an
    empty one where thinking is switched off.
    """
    if not has_template(lm.tokenizer):
        return Thought()
    end, switched_off = _end(lm, config), _switched_off(lm, config)
    for opening, closing in THOUGHTS:
        by_model = closing not in end and any(closing in other for other in switched_off)
        if by_model or end.rstrip().endswith(opening):
            number = lm.tokenizer.get_vocab().get(closing)
            if number is None:
                return Thought(closing, lm.vocabulary.ids(f"\n{closing}"))
            return Thought(closing, (number,), frozenset({number}))
    return Thought()


def _end(lm: LM, config: Config) -> str:
    """What the template writes behind the user's message."""
    after = dataclasses.replace(config, prompt_placement="after")
    return Renderer(lm, after, literal=False).around("?", " ")[1]


def _switched_off(lm: LM, config: Config) -> list[str]:
    """The same with thinking switched off, by each switch that the template has."""
    ends = []
    for switch in _SWITCHES:
        arguments = {**config.chat_template_kwargs, switch: False}
        try:
            ends.append(_end(lm, dataclasses.replace(config, chat_template_kwargs=arguments)))
        except ValueError:  # no such switch
            continue
    return ends
