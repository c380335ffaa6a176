"""Settings that cannot act: refused by name, and where a loaded model is otherwise."""

import re
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from promptolution.predictors import MarkerBasedPredictor
from promptolution.tasks import ClassificationTask

from greater_fast import Config, Example
from greater_fast.front_ends import promptolution
from greater_fast.front_ends.dspy import local_lm
from greater_fast.front_ends.gepa import GReaTerAdapter, GReaTerProposer
from greater_fast.front_ends.greaterprompt import GreaterOptimizer
from greater_fast.front_ends.promptolution import GreaterLLM
from greater_fast.model.lm import LM
from tests.tiny import PROMPT, boolean_rows

pytestmark = pytest.mark.front_ends
SHORT = {"max_new_tokens": 4}
ROWS = [Example(question, answer) for question, answer in boolean_rows(4)]
Settings = Config | dict[str, Any]


def greaterprompt(lm: LM, config: Any) -> Any:
    return GreaterOptimizer(lm.model, lm.tokenizer, config=config)


def lm_eval(lm: LM, config: Settings) -> Any:
    from greater_fast.front_ends.lm_eval import GreaterLM  # the harness, which is slow to import

    return GreaterLM(lm, "So it is $", config)


def optimizer(lm: LM, config: Settings) -> Any:
    """promptolution's, of its predictor's own model."""
    predictor = MarkerBasedPredictor(GreaterLLM(lm, SHORT))
    task = ClassificationTask(pd.DataFrame(boolean_rows(4), columns=["x", "y"]), "Is it true?")
    prompts = [PROMPT.removesuffix(".")]
    return promptolution.GReaTer(predictor, task, config=config, initial_prompts=prompts)


def adapter(lm: LM, config: Settings) -> Any:
    return GReaTerAdapter(lm, ROWS, config=config)


def proposer(lm: LM, config: Settings) -> Any:
    own = GReaTerAdapter(lm, ROWS, config=SHORT)
    settings = config if isinstance(config, Config) else Config(**config)
    return GReaTerProposer(own.engine, own.proposer(ROWS)._layouts, settings)


def dspy_lm(lm: LM, config: Settings) -> Any:
    return local_lm(lm, config=config)


MAKERS: list[Callable[[LM, Any], Any]] = [
    *(greaterprompt, lm_eval, GreaterLLM, optimizer, adapter, dspy_lm)
]


@pytest.mark.parametrize("make", MAKERS)
def test_a_loaded_model_is_as_the_settings_say(lm: LM, make: Callable[[LM, Any], Any]) -> None:
    make(lm, {"dtype": "float32", "device": "cpu", **SHORT})
    for given, message in (
        ({"dtype": "float64"}, "dtype: got float64 beside a loaded model of float32"),
        ({"device": "cuda:3"}, "device: got 'cuda:3' beside a model loaded on cpu"),
        ({"tensor_parallel": True}, "tensor_parallel: got True"),
    ):
        with pytest.raises(ValueError, match=message):
            make(lm, given)


IDLE: dict[str, tuple[Any, dict[Callable[[LM, Any], Any], str]]] = {
    "steps": (
        9,
        {
            GreaterLLM: "optimize(n_steps)",
            optimizer: "optimize(n_steps)",
            adapter: "the proposer's steps=",
            proposer: "the proposer's steps=",
        },
    ),
    "minutes": (
        1.0,
        {
            greaterprompt: "rounds",
            GreaterLLM: "optimize(n_steps)",
            optimizer: "optimize(n_steps)",
            adapter: "GEPA's max_metric_calls",
            proposer: "GEPA's max_metric_calls",
            dspy_lm: "steps of GReaTer",
        },
    ),
    "num_train": (3, {adapter: "proposer(rows)"}),
    "num_dev": (
        3,
        {GreaterLLM: "the task", optimizer: "the task", adapter: "GEPA's valset"},
    ),
    "num_finalists": (3, {adapter: "GEPA's pool", proposer: "GEPA's pool"}),
    "template": (
        "{question}",
        {
            lm_eval: "the task",
            GreaterLLM: "the task",
            optimizer: "the task",
            adapter: "load_examples",
            dspy_lm: "the program",
        },
    ),
    "system_prompt": (
        "Be brief.",
        {
            lm_eval: "the task's description",
            GreaterLLM: "the predictor",
            optimizer: "the predictor",
            dspy_lm: "the adapter",
        },
    ),
    "prompt_placement": (
        "before",
        {
            lm_eval: "the task",
            GreaterLLM: "the predictor",
            optimizer: "the predictor",
            dspy_lm: "the adapter",
        },
    ),
    "extractor": ("So:", {lm_eval: "extractor=", dspy_lm: "the adapter"}),
    "metric": ("contains", {lm_eval: "the task's metric_list"}),
    "max_prompt_tokens": (30, {lm_eval: "the task"}),
    "on_long": ("drop", {lm_eval: "the harness"}),
}


@pytest.mark.parametrize("name", IDLE)
def test_what_something_else_decides_is_refused(lm: LM, name: str) -> None:
    """Asked for by name; a whole Config, which may be another call's too, is warned of."""
    value, makers = IDLE[name]
    for make, decides in makers.items():
        if make is not proposer:  # which takes a Config
            message = f"{name}: got {value!r}, expected none: here {decides}"
            with pytest.raises(ValueError, match=f"^{re.escape(message)}.* decides$"):
                make(lm, {name: value})
        if make is not greaterprompt:  # which takes a mapping
            message = f"{name}: got {value!r}, without effect: here {decides}"
            with pytest.warns(RuntimeWarning, match=f"^{re.escape(message)}.* decides$"):
                make(lm, Config.from_mapping({name: value, **SHORT}))


@pytest.mark.parametrize("make", MAKERS)
def test_defaults_ask_for_nothing(
    lm: LM, make: Callable[[LM, Any], Any], recwarn: pytest.WarningsRecorder
) -> None:
    make(lm, Config(max_new_tokens=4).to_dict())
    assert [str(own.message) for own in recwarn if "without effect" in str(own.message)] == []


def test_settings_of_a_search_are_told_where_nothing_is_searched(lm: LM) -> None:
    message = "^steps and race: without effect on an evaluation$"
    with pytest.warns(RuntimeWarning, match=message) as told:
        lm_eval(lm, {"steps": 9, "race": 0.1, **SHORT})
    assert len(told) == 1
