import dataclasses
import json
import math
from typing import Any

import pytest

from greater_fast.config import CHOICES, PAPER, Config

OUT_OF_RANGE = [
    ("steps", -1, "expected at least 0"),
    ("top_k", 0, "expected at least 1"),
    ("num_proposal_examples", 0, "expected at least 1"),
    ("num_draws", 0, "expected at least 1"),
    ("num_draws", 10**12, "expected at most 10000"),
    ("shortlist_size", 0, "expected at least 1"),
    ("temperature", 0.0, "expected at least 0.001"),
    ("temperature", 1e4, "expected at most 1000.0"),
    ("fluency_weight", -0.1, "expected at least 0.0"),
    ("error_fluency_weight", -1, "expected at least 0.0"),
    ("reasoning_weight", -0.5, "expected at least 0.0"),
    ("num_reasonings", 1, "expected at least 2"),
    ("num_reasonings", 65, "expected at most 64"),
    ("max_new_tokens", 0, "expected at least 1"),
    ("max_prompt_tokens", 1, "expected at least 2"),
    ("num_train", 1, "expected at least 2"),
    ("num_dev", 0, "expected at least 1"),
    ("num_finalists", 0, "expected at least 1"),
    ("batch_size", 0, "expected at least 1"),
    ("gradient_batch_tokens", 0, "expected at least 1"),
    ("seed", -1, "expected at least 0"),
    ("kv_cache_bytes", 0, "expected at least 1"),
    ("draft_tokens", -1, "expected at least 0"),
    ("draft_tokens", "all", "expected a whole number"),
    ("max_step_tokens", 15, "expected at least 16"),
    ("max_step_tokens", 8193, "expected at most 8192"),
    ("sampling_temperature", -0.1, "expected at least 0.0"),
    ("sampling_temperature", 1001.0, "expected at most 1000.0"),
    ("race", -0.01, "expected at least 0.0"),
    ("race", 0.6, "expected at most 0.5"),
    ("minutes", -0.5, "expected at least 0.001"),
    ("minutes", 0, "expected at least 0.001"),
]
WRONG_KIND = [
    ("steps", 2.0, "expected a whole number"),
    ("steps", "20", "expected a whole number"),
    ("steps", None, "expected a whole number"),
    ("seed", True, "expected a whole number"),
    ("gradient_batch_tokens", "many", "expected a whole number"),
    ("gradient_checkpointing", True, "expected one of auto, on, off"),
    ("kv_cache_bytes", "all", "expected a whole number"),
    ("temperature", "warm", "expected a number"),
    ("minutes", "90", "expected a number"),
    ("temperature", math.inf, "expected a number"),
    ("fluency_weight", math.nan, "expected a number"),
    ("objective", "accuracy", "expected one of error, loss"),
    ("accept", None, "expected one of improve, best"),
    ("shortlist", 3, "expected one of gradient, random"),
    ("gradient", "policy", "expected one of answer, reasoning, both"),
    ("reasonings", "greedy", "expected one of stored, sampled"),
    ("candidates", "all", "expected one of lm, vocabulary, both"),
    ("kernels", "cuda", "expected one of auto, triton, reference"),
    ("prompt_placement", "inside", "expected one of after, before"),
    ("on_long", "cut", "expected one of error, drop"),
    ("dtype", "int8", "expected one of None, float32, bfloat16, float16, float64"),
    ("extractor", "", "expected a text that is not empty, or None"),
    ("system_prompt", 5, "expected a text that is not empty, or None"),
    ("device", " ", "expected a text that is not empty, or None"),
    ("chat_template_kwargs", [], "expected a dict"),
    ("chat_template_kwargs", {1: 2}, "expected a dict of names and values"),
    ("chat_template_kwargs", {"a": {1, 2}}, "expected values that JSON can hold: Object of type"),
    ("template_date", "26.11.2026", "expected a day such as 2026-11-26"),
    ("allowed", "utf-8", "expected one of prompt, ascii"),
    ("stop_unchanged", None, "expected True or False"),
    ("tensor_parallel", 1, "expected True or False"),
    ("tensor_parallel", "yes", "expected True or False"),
]


@pytest.mark.parametrize(("name", "value", "expected"), OUT_OF_RANGE + WRONG_KIND)
def test_a_wrong_value_is_named(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ValueError, match="invalid settings: ") as caught:
        Config(**{name: value})
    assert f"{name}: got {value!r}, {expected}" in str(caught.value)


def test_draws_are_at_temperature_one() -> None:
    drawing = {"gradient": "both", "reasonings": "sampled"}
    for temperature in (0, 1):
        assert Config(**drawing, sampling_temperature=temperature).draws_reasonings
    with pytest.raises(
        ValueError, match=r"reasonings: got 'sampled', which is .* 0\.7, expected 0"
    ):
        Config(**drawing, sampling_temperature=0.7)
    for unused in ({"gradient": "answer"}, {"shortlist": "random"}, {"reasonings": "stored"}):
        given = Config(**{**drawing, **unused, "sampling_temperature": 0.7})
        assert not given.draws_reasonings


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"objective": "loss"}, "objective 'loss', expected 'error'"),
        ({"accept": "best"}, "accept 'best', where no incumbent competes, expected 'improve'"),
    ],
)
def test_a_race_needs_rows_that_are_right_or_wrong_and_an_incumbent(
    setting: dict[str, Any], expected: str
) -> None:
    assert Config(**setting).race == 0
    with pytest.raises(ValueError, match=f"race: got 0.05 with {expected}.*, or race 0$"):
        Config(**setting, race=0.05)
    with pytest.raises(ValueError, match=r"race: got 0\.05 with "):
        Config.from_mapping({**setting, "race": 0.05})


def test_every_number_has_a_lower_bound_that_is_tested() -> None:
    numbers = {f.name for f in dataclasses.fields(Config) if f.metadata["low"] is not None}
    assert numbers == {name for name, _, _ in OUT_OF_RANGE}


def test_bounds_themselves_are_allowed() -> None:
    for field in dataclasses.fields(Config):
        for bound in (field.metadata["low"], field.metadata["high"]):
            if bound is not None:
                assert getattr(Config(**{field.name: bound}), field.name) == bound
    for name, choices in CHOICES.items():
        for choice in choices:
            assert getattr(Config(**{name: choice}), name) == choice


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(ValueError, match="invalid settings") as caught:
        Config(steps=-1, objective="best", temperature=0, num_train=0)
    message = str(caught.value)
    assert [message.count(name) for name in ("steps", "objective", "temperature", "num_train")] == [
        1
    ] * 4


def test_unknown_and_wrong_settings_are_named_together() -> None:
    with pytest.raises(ValueError, match="invalid settings") as caught:
        Config.from_mapping({"max_new_token": 5, "zzz": 1, "steps": -3, "seed": 2})
    message = str(caught.value)
    assert message.count("invalid settings") == 1
    assert "max_new_token: unknown, did you mean max_new_tokens?" in message
    assert "zzz: unknown;" in message
    assert "steps: got -3, expected at least 0" in message
    assert "seed" not in message


def test_released_defaults() -> None:
    config = Config()
    assert (config.top_k, config.num_proposal_examples, config.shortlist_size) == (10, 5, 3)
    assert (config.temperature, config.fluency_weight, config.error_fluency_weight) == (
        0.2,
        0.2,
        0.02,
    )
    assert (config.steps, config.num_train, config.num_dev) == (105, 50, 100)
    assert config.max_new_tokens == 512


@pytest.mark.parametrize("objective", ["error", "loss"])
def test_the_papers_rule(objective: str) -> None:
    """As GREATER and the released code have it, whatever our defaults are."""
    config = Config.paper(objective)
    assert (config.objective, config.accept, config.stop_unchanged) == (objective, "best", False)
    assert (config.top_k, config.num_proposal_examples, config.num_draws) == (10, 5, 5)
    assert (config.shortlist_size, config.temperature, config.fluency_weight) == (3, 0.2, 0.2)
    assert (config.error_fluency_weight, config.sampling_temperature) == (0.02, 0.0)
    assert (config.shortlist, config.candidates, config.allowed) == ("gradient", "lm", "ascii")
    assert (config.gradient, config.gradient_norm) == ("answer", "none")
    assert (config.race, config.metric, config.prompt_placement) == (0.0, None, "after")
    assert (config.num_train, config.num_dev, config.num_finalists) == (50, 100, 10)
    assert (config.steps, config.max_new_tokens, config.max_prompt_tokens) == (105, 512, 128)


def test_the_papers_rule_leaves_open_what_is_of_rows_and_machine_alone() -> None:
    """Or idle beside it: a new setting that decides a search belongs to the rule."""
    names = {field.name for field in dataclasses.fields(Config)}
    rows = {"extractor", "template", "system_prompt", "chat_template_kwargs", "template_date"}
    paged = {"engine", "kernels", "kv_cache_bytes", "max_step_tokens", "draft_tokens"}
    others = {"batch_size", "gradient_batch_tokens", "gradient_checkpointing", "tensor_parallel"}
    machine = paged | others | {"device", "dtype", "minutes"}
    idle = {"reasonings", "num_reasonings", "reasoning_weight"}  # of a gradient of the answer
    assert names - PAPER.keys() == rows | machine | idle | {"objective", "on_long", "seed"}


def test_settings_beside_the_papers_rule() -> None:
    config = Config.paper(seed=3, steps=4)
    assert (config.seed, config.steps, config.accept) == (3, 4, "best")
    assert Config.paper() == Config(**PAPER)
    with pytest.raises(ValueError, match="num_trian: unknown, did you mean num_train"):
        Config.paper(num_trian=3)
    with pytest.raises(ValueError, match="objective: got 'accuracy', expected one of error, loss"):
        Config.paper("accuracy")


def test_whole_numbers_serve_as_numbers() -> None:
    assert Config(temperature=1, fluency_weight=0).temperature == 1


def test_round_trip_through_json() -> None:
    config = Config(steps=3, dtype="float32", chat_template_kwargs={"enable_thinking": False})
    assert Config.from_mapping(json.loads(json.dumps(config.to_dict()))) == config
    assert Config.from_mapping({}) == Config()
    nested = Config(chat_template_kwargs={"tools": ({"name": "f"},), "by_number": {1: "one"}})
    assert Config.from_mapping(json.loads(json.dumps(nested.to_dict()))) == nested


def test_frozen_and_independent_of_the_given_dict() -> None:
    given = {"enable_thinking": True}
    config = Config(chat_template_kwargs=given)
    given["enable_thinking"] = False
    assert config.chat_template_kwargs == {"enable_thinking": True}
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 3  # type: ignore[misc]


def test_every_setting_has_a_help_text() -> None:
    assert all(field.metadata["help"] for field in dataclasses.fields(Config))


@pytest.mark.parametrize("name", ["steps", "seed", "kv_cache_bytes", "temperature"])
@pytest.mark.parametrize("value", [1 << 63, 10**400, -(10**400)])
def test_numbers_that_no_machine_counts_with(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name}: got .*, expected a"):
        Config.from_mapping({name: value})


@pytest.mark.parametrize(
    "values", [{"x" * 99_999: 1}, {3: 1}, {"engine": "x" * 99_999}, {"steps": ["x"] * 99_999}]
)
def test_messages_are_short_whatever_was_given(values: Any) -> None:
    with pytest.raises(ValueError, match="invalid settings: ") as caught:
        Config.from_mapping(values)
    assert len(str(caught.value)) < 500


def test_messages_of_many_problems_are_short() -> None:
    names = [field.name for field in dataclasses.fields(Config)]
    with pytest.raises(ValueError, match=r"; \d+ more$") as error:
        Config(**{name: ["x" * 500] for name in names})
    assert len(str(error.value)) < 2000
    with pytest.raises(ValueError, match="7: unknown; nothing: unknown") as error:
        Config.from_mapping({7: 1, "nothing": 1, "\ud800" * 300: 1, "steps": 10**5000})
    assert len(str(error.value)) < 500
    assert str(error.value).encode()
    assert "steps: got <int>, expected a whole number" in str(error.value)
