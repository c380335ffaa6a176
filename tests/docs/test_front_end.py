"""The front end in the documentation works as it stands there."""

import re
from typing import Any

import pytest

import greater_fast
from greater_fast.rollouts.plain import PlainRolloutEngine
from tests.cases import examples, tiny_lm
from tests.docs.pages import ROOT
from tests.tiny import PROMPT

PAGE = ROOT / "docs" / "front_ends.md"
SETTINGS = {
    "objective": "loss",
    "steps": 2,
    "max_new_tokens": 6,
    "num_draws": 2,
    "num_proposal_examples": 2,
}


@pytest.fixture(scope="module")
def shown() -> str:
    text = PAGE.read_text(encoding="utf-8")
    block = text.partition("<!-- front end -->\n```python\n")[2]
    return block.partition("```\n<!-- /front end -->")[0]


@pytest.fixture(scope="module")
def assistant_class(shown: str) -> Any:
    names: dict[str, Any] = {}
    exec(compile(shown, str(PAGE), "exec"), names)
    return names["Assistant"]


def test_the_front_end_is_short(shown: str) -> None:
    assert 30 <= len([line for line in shown.splitlines() if line.strip()]) <= 42
    assert set(re.findall(r"\bgf\.(\w+)", shown)) <= set(greater_fast.__all__)


@pytest.mark.parametrize("engine", ["paged", "generate"])
def test_the_assistant_improves_as_it_judges(assistant_class: Any, engine: str) -> None:
    lm = tiny_lm()
    assistant = assistant_class((lm.model, lm.tokenizer), PROMPT, engine=engine, **SETTINGS)
    assert isinstance(assistant.engine, PlainRolloutEngine) == (engine == "generate")
    rows, others = examples(8)[:4], examples(8)[4:]
    found = assistant.improve(rows, others)
    assert found.num_steps == 2
    assert found.initial.prompt == PROMPT
    assert assistant.instruction == found.best.prompt
    for prompt in found.prompts:
        answers = assistant.answers(others, prompt.prompt)
        own = sum(e.answer in a for e, a in zip(others, answers, strict=True))
        assert prompt.judged == own <= found.best.judged
