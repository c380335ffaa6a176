"""A chat template that writes the date: conversations are of the day that the settings name."""

import datetime
from pathlib import Path
from typing import Any

import pytest

from greater_fast.front_ends.dspy import GreaterEngine
from greater_fast.front_ends.promptolution import GreaterLLM
from greater_fast.model.lm import LM, load_lm
from tests.tiny import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.front_ends
TEMPLATE = (
    "{{ '<|begin_of_text|>Today: ' + strftime_now('%d %B %Y') + '.' }}"
    "{% for turn in messages %}{{ '[' + turn.role + ']' + turn.content }}{% endfor %}"
)
SETTINGS = {"template_date": "2024-02-29", "max_new_tokens": 2}
TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is it?"}]
TEXT = "<|begin_of_text|>Today: 29 February 2024.[system]Be brief.[user]Is it?"


@pytest.fixture(scope="module")
def dated() -> LM:
    tokenizer = tiny_tokenizer("llama3")
    tokenizer.chat_template = TEMPLATE
    return load_lm((tiny_model("llama", len(tokenizer)), tokenizer))


def asked_ids(engine: Any, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """What an engine is asked from now on."""
    ids: list[list[int]] = []
    run = engine.run

    def told(requests: Any, *rest: Any) -> Any:
        ids.extend(list(request.prompt_ids) for request in requests)
        return run(requests, *rest)

    monkeypatch.setattr(engine, "run", told)
    return ids


def ids_of(lm: LM, text: str) -> list[int]:
    found: list[int] = lm.tokenizer(text, add_special_tokens=False).input_ids
    return found


def test_promptolution(dated: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = GreaterLLM(dated, SETTINGS)
    ids = asked_ids(llm.engine, monkeypatch)
    llm.get_response("Is it?", "Be brief.")
    assert ids == [ids_of(dated, TEXT)]


def test_dspy(dated: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    from dspy import lm15

    engine = GreaterEngine(dated, SETTINGS)
    ids = asked_ids(engine.engine, monkeypatch)
    request = lm15.Request(model="m", system="Be brief.", messages=(lm15.Message.user("Is it?"),))
    engine.complete(request)
    assert engine.text(request) == TEXT
    assert ids == [ids_of(dated, TEXT)] == [engine.ids(request)]
    other = GreaterEngine(dated, {**SETTINGS, "template_date": "2030-12-31"})
    assert other.text(request) == TEXT.replace("29 February 2024", "31 December 2030")


def test_an_lm_of_dspy_stays_at_the_day_that_it_was_made_and_saves_one_that_was_given(
    model_folder: Path,
) -> None:
    today = datetime.date.today().isoformat()
    engine = GreaterEngine(model_folder)
    assert today <= str(engine.config.template_date) <= datetime.date.today().isoformat()
    assert engine.dump_state()["config"] == {}
    assert GreaterEngine(model_folder, SETTINGS).dump_state()["config"] == SETTINGS


def test_the_harness(dated: LM) -> None:
    from greater_fast.front_ends.lm_eval import GreaterLM

    model = GreaterLM(dated, "So it is $", SETTINGS)
    assert model.apply_chat_template(TURNS) == TEXT
