"""A thought that a template or a model opens ends at its mark, which precedes the extractor."""

from typing import Any

import pytest

from greater_fast.config import Config
from greater_fast.engine import Rollout
from greater_fast.examples.layout import Layouts
from greater_fast.runs.evaluation import evaluate_prompt
from tests.cases import layouts_of, tokenizer_lm
from tests.tiny import LLAMA3_TEMPLATE, tiny_tokenizer

OPENED = LLAMA3_TEMPLATE + "{{ '<think>\n' }}"
SWITCH = LLAMA3_TEMPLATE + (
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}"
    "{% endif %}"
)
OTHER_SWITCH = LLAMA3_TEMPLATE + "{{ '<think>' if thinking | default(false) else '</think>' }}"
NOTE = "extractor (given, behind '</think>', where the reasoning ends): "


def thinking(template: str, known: bool = True, **settings: Any) -> Layouts:
    found = tiny_tokenizer("llama3")
    found.chat_template = template
    if known:
        found.add_tokens(["<think>", "</think>"])
    return layouts_of(tokenizer_lm(found), 3, **settings)


@pytest.mark.parametrize("placement", ["after", "before"])
@pytest.mark.parametrize(
    ("template", "arguments"),
    [
        (OPENED, {}),
        (SWITCH, {}),
        (SWITCH, {"enable_thinking": True}),
        (OTHER_SWITCH, {"thinking": True}),
    ],
)
def test_an_open_thought_is_closed(
    template: str, arguments: dict[str, Any], placement: str
) -> None:
    layouts = thinking(template, chat_template_kwargs=arguments, prompt_placement=placement)
    closing = layouts.vocabulary.tokenizer.convert_tokens_to_ids("</think>")
    assert layouts.end_ids == {closing}
    assert layouts.extractor_ids[0] == closing
    text = layouts.vocabulary.text(layouts.target_ids(0))
    assert text.startswith("</think>\n\nTherefore, the final answer is $")
    assert layouts.extractor.describe().startswith(NOTE)


@pytest.mark.parametrize(
    ("template", "arguments"),
    [
        (LLAMA3_TEMPLATE, {}),
        (SWITCH, {"enable_thinking": False}),
        (OTHER_SWITCH, {}),
        (OPENED + "{{ '</think>' }}", {}),
    ],
)
def test_without_one_nothing_is_closed(template: str, arguments: dict[str, Any]) -> None:
    layouts = thinking(template, chat_template_kwargs=arguments)
    plain = thinking(LLAMA3_TEMPLATE)
    assert layouts.target_ids(0) == plain.target_ids(0)
    assert (layouts.end_ids, layouts.extractor) == (frozenset(), plain.extractor)


def test_a_mark_that_is_no_token_is_written_as_text() -> None:
    layouts = thinking(OPENED, known=False)
    assert layouts.end_ids == frozenset()
    text = layouts.vocabulary.text(layouts.extractor_ids)
    assert text == "\n</think>\n\nTherefore, the final answer is $"


def test_an_extractor_that_closes_the_thought_itself() -> None:
    own = thinking(OPENED, extractor="</think> Therefore, the final answer is $")
    assert own.extractor_ids == thinking(OPENED).extractor_ids


def test_the_extractors_ids_are_those_of_its_text_in_place() -> None:
    layouts = thinking(OPENED)
    found = layouts.vocabulary.tokenizer
    text = layouts.vocabulary.text(layouts.target_ids(0))
    assert found(f"x{text}", add_special_tokens=False).input_ids[1:] == [*layouts.target_ids(0)]


def test_generation_ends_at_the_mark() -> None:
    layouts = thinking(OPENED)

    class Requests:
        lm = tokenizer_lm(layouts.vocabulary.tokenizer)

        def run(self, requests: list[Any]) -> list[Rollout]:
            assert all(layouts.end_ids | self.lm.end_ids == r.end_ids for r in requests)
            return [Rollout((5,), answer_ids=layouts.vocabulary.ids("True$")) for _ in requests]

    engine: Any = Requests()
    evaluation = evaluate_prompt(engine, layouts, layouts.prompt_ids, Config())
    assert {row.predicted for row in evaluation.rows} == {"True"}
