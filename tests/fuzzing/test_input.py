"""Whatever is put in, the outcome is a run or a refusal of ours, and soon.

A short search is part of every test run. A long one:

    pytest tests/fuzzing --hypothesis-profile=long [--hypothesis-seed=N]
"""

import json
import traceback
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import greater_fast
from greater_fast import api, evaluate, load_examples, optimize
from greater_fast.model.lm import LM
from tests.fuzzing import inputs
from tests.tiny import PROMPT, boolean_rows

PACKAGE = str(Path(greater_fast.__file__).parent)
LONGEST_MESSAGE = 2000
ROWS = [{"question": question, "answer": answer} for question, answer in boolean_rows(12)]

unhurried = settings(
    deadline=timedelta(seconds=10),
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)


class ReachedError(Exception):
    """The input was taken: model work would begin here."""


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


@pytest.fixture
def before_model_work(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stop where the engine would be made."""

    def reached(*arguments: object, **named: object) -> None:
        raise ReachedError

    monkeypatch.setattr(api, "make_engine", reached)
    return None


@unhurried
@given(content=inputs.files())
def test_data_files(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(content)
    outcome(lambda: load_examples(path))


@unhurried
@given(source=inputs.sources)
def test_data_in_memory(source: Any) -> None:
    outcome(lambda: load_examples(source))


@unhurried
@given(
    prompt=inputs.prompts,
    rows=st.one_of(st.just(ROWS), inputs.tables()),
    config=inputs.settings_of_a_run(),
)
def test_a_run_up_to_its_engine(
    lm: LM,
    before_model_work: None,
    tmp_path: Path,
    prompt: str,
    rows: list[Any],
    config: dict[str, Any],
) -> None:
    outcome(lambda: optimize(lm, rows, prompt=prompt, config=config, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@unhurried
@given(
    prompt=inputs.prompts,
    against=st.none() | inputs.prompts,
    extractor=inputs.extractors,
    rows=inputs.tables(),
)
def test_an_evaluation_up_to_its_engine(
    lm: LM,
    before_model_work: None,
    prompt: str,
    against: str | None,
    extractor: str | None,
    rows: list[Any],
) -> None:
    config = {"max_new_tokens": 4, "max_prompt_tokens": 60, "extractor": extractor}
    outcome(lambda: evaluate(lm, rows, prompt=prompt, against=against, config=config))


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
