"""Whatever is put in, the outcome is a run or a refusal of ours, and soon.

A short search is part of every test run. A long one:

    pytest tests/fuzzing --hypothesis-profile=long [--hypothesis-seed=N]
"""

import copy
import dataclasses
import json
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import greater_fast
from greater_fast import evaluate, load_examples, optimize
from greater_fast.model.lm import LM
from greater_fast.model.text.vocabulary import Vocabulary
from tests.fuzzing import inputs
from tests.fuzzing.conftest import ReachedError
from tests.tiny import LLAMA3_TEMPLATE, PROMPT, boolean_rows

PACKAGE = str(Path(greater_fast.__file__).parent)
LONGEST_MESSAGE = 2000
ROWS = [{"question": question, "answer": answer} for question, answer in boolean_rows(12)]

THINKING = (
    LLAMA3_TEMPLATE
    + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>{% endif %}"
)
TEMPLATES = {
    "plain": LLAMA3_TEMPLATE,
    "none": None,
    "thinking": THINKING,
    "dated": "{{ strftime_now('%d %B %Y') }} {{ date_string }}" + LLAMA3_TEMPLATE,
    "strict": "{{ raise_exception('no system ' * 900) if messages | length > 1 }}"
    + LLAMA3_TEMPLATE,
    "loud": LLAMA3_TEMPLATE.replace("turn.content", "turn.content | upper"),
}

unhurried = settings(
    deadline=timedelta(minutes=5),
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)


def outcome(call: Callable[[], Any]) -> str:
    """`ran`, or `refused` in words of ours; anything else fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # ours; those of libraries stay errors
        try:
            call()
        except ReachedError:
            return "ran"
        except ValueError as error:
            frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
            assert frames[-1].f_code.co_filename.startswith(PACKAGE), "a library's own error"
            message = str(error)
            assert 0 < len(message) <= LONGEST_MESSAGE
            assert message.encode("utf-8")
            return "refused"
    return "ran"


@pytest.fixture(scope="module")
def models(lm: LM) -> dict[str, LM]:
    """The same model with several templates."""
    found = {}
    for name, template in TEMPLATES.items():
        tokenizer = copy.deepcopy(lm.tokenizer)
        tokenizer.chat_template = template
        found[name] = dataclasses.replace(
            lm, tokenizer=tokenizer, vocabulary=Vocabulary(tokenizer), name=name
        )
    return found


@unhurried
@given(content=inputs.files(), template=inputs.templates)
def test_data_files(
    content: bytes, template: str | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(content)
    outcome(lambda: load_examples(path, template=template))


@unhurried
@given(
    source=inputs.sources,
    columns=st.none()
    | st.dictionaries(st.sampled_from(["question", "answer", "x", "\ud800"]), inputs.written),
    template=inputs.templates,
)
def test_data_in_memory(source: Any, columns: dict[str, str] | None, template: str | None) -> None:
    outcome(lambda: load_examples(source, columns, template))


@unhurried
@given(
    model=st.sampled_from(sorted(TEMPLATES)),
    prompt=inputs.prompts,
    rows=st.one_of(st.just(ROWS), inputs.tables()),
    config=inputs.settings_of_a_run(),
)
def test_a_run_up_to_its_engine(
    models: dict[str, LM],
    before_model_work: None,
    tmp_path: Path,
    model: str,
    prompt: str,
    rows: list[Any],
    config: dict[str, Any],
) -> None:
    folder = tmp_path / "run"
    outcome(lambda: optimize(models[model], rows, prompt=prompt, config=config, run_dir=folder))
    assert not folder.exists()


@unhurried
@given(
    model=st.sampled_from(sorted(TEMPLATES)),
    prompt=inputs.prompts,
    against=st.none() | inputs.prompts,
    extractor=inputs.extractors,
    rows=st.one_of(inputs.tables(), st.lists(inputs.ours, max_size=4)),
)
def test_an_evaluation_up_to_its_engine(
    models: dict[str, LM],
    before_model_work: None,
    model: str,
    prompt: str,
    against: str | None,
    extractor: str | None,
    rows: list[Any],
) -> None:
    config = {"max_new_tokens": 4, "max_prompt_tokens": 60, "extractor": extractor}
    outcome(lambda: evaluate(models[model], rows, prompt=prompt, against=against, config=config))


@settings(unhurried, max_examples=max(settings.default.max_examples // 10, 1))
@given(prompt=inputs.prompts, rows=inputs.tables(), extractor=inputs.extractors)
def test_what_is_taken_runs(
    lm: LM,
    tmp_path_factory: pytest.TempPathFactory,
    prompt: str,
    rows: list[Any],
    extractor: str | None,
) -> None:
    config = {"steps": 2, "max_new_tokens": 4, "max_prompt_tokens": 60, "num_train": 3}
    config |= {"num_dev": 3, "num_finalists": 2, "extractor": extractor, "num_draws": 2}
    folder = tmp_path_factory.mktemp("runs") / "run"
    found = outcome(lambda: optimize(lm, rows, prompt=prompt, config=config, run_dir=folder))
    result = folder / "result.json"
    assert result.is_file() == (found == "ran")
    if result.is_file():
        assert json.loads(result.read_text())["best"]["prompt"]


def test_most_plain_input_is_taken(lm: LM, before_model_work: None, tmp_path: Path) -> None:
    """Refusing everything would pass the tests above."""
    run = {"run_dir": tmp_path / "run", "config": {"num_train": 4, "max_new_tokens": 4}}
    assert outcome(lambda: optimize(lm, ROWS, prompt=PROMPT, **run)) == "ran"
