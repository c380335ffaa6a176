"""A setting that changes nothing beside the others is named, with the reason."""

import dataclasses
from typing import Any

import pytest

from greater_fast.config import Config
from greater_fast.runs.input import (
    OF_EVALUATION,
    changed_settings,
    check_settings,
    for_evaluation,
    idle_settings,
)

CASES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, []),
    ({"gradient": "both", "reasoning_weight": 2.0, "num_reasonings": 6}, []),
    ({"gradient": "reasoning", "reasonings": "sampled"}, []),
    ({"reasonings": "sampled", "num_reasonings": 6}, ["num_reasonings and reasonings"]),
    ({"gradient": "reasoning", "reasoning_weight": 2.0}, ["reasoning_weight"]),
    ({"gradient": "both", "shortlist": "random"}, ["gradient"]),
    (
        {"shortlist": "random", "gradient_norm": "example", "gradient_batch_tokens": 9},
        ["gradient_batch_tokens and gradient_norm"],
    ),
    (
        {"gradient": "both", "shortlist": "random", "num_reasonings": 6},
        ["gradient", "num_reasonings"],
    ),
    ({"objective": "loss", "metric": "exact"}, ["metric"]),
    ({"objective": "error", "metric": "exact"}, []),
    ({"objective": "loss", "error_fluency_weight": 0.5}, ["error_fluency_weight"]),
    ({"shortlist": "random", "fluency_weight": 0.5}, ["fluency_weight"]),
    ({"shortlist": "random", "fluency_weight": 0.5, "objective": "loss"}, []),
    (
        {"engine": "generate", "max_step_tokens": 64, "draft_tokens": 2, "batch_size": 2},
        ["draft_tokens and max_step_tokens"],
    ),
    ({"engine": "paged", "max_step_tokens": 64, "batch_size": 2}, ["batch_size"]),
    ({"max_step_tokens": 64, "batch_size": 2}, []),
]


@pytest.mark.parametrize(("settings", "named"), CASES)
def test_idle_settings_are_named(settings: dict[str, Any], named: list[str]) -> None:
    notes = idle_settings(Config(**settings))
    assert [note.split(": without effect on the search, as ")[0] for note in notes] == named


def test_settings_of_another_engine_than_was_made_are_named() -> None:
    config = Config(max_step_tokens=64, batch_size=2)
    for engines, named in (
        (["paged"], ["batch_size"]),
        (["generate"], ["max_step_tokens"]),
        (["paged", "generate"], []),
    ):
        notes = idle_settings(config, engines)
        assert [note.split(": without effect")[0] for note in notes] == named


def test_an_evaluation_has_no_settings_of_a_search() -> None:
    """They are as if unset, and named once; what an evaluation reads is as it was."""
    assert {f.name for f in dataclasses.fields(Config)} >= OF_EVALUATION
    given = Config(gradient="both", reasonings="sampled", minutes=3, race=0.1, max_new_tokens=7)
    config, notes = for_evaluation(given)
    assert config == Config(max_new_tokens=7)
    assert notes == (
        "gradient and reasonings and race and minutes: without effect on an evaluation",
    )
    assert not config.draws_reasonings
    assert for_evaluation(config) == (config, ())


def test_settings_that_are_not_the_defaults() -> None:
    given = {"steps": 3, "chat_template_kwargs": {"a": 1}, "seed": 0, "template": None}
    changed = {"steps": 3, "chat_template_kwargs": {"a": 1}}
    assert changed_settings(Config(**given)) == changed
    assert changed_settings(Config()) == {}


def test_a_setting_that_something_else_decides_is_refused() -> None:
    decided = {"steps": "the caller", "seed": "chance"}
    for config in (None, {}, {"top_k": 3}, Config(), Config(top_k=3), Config(top_k=3).to_dict()):
        check_settings(config, decided)
    with pytest.raises(ValueError, match=r"^steps: got 3, expected none: here the caller decides$"):
        check_settings({"seed": 1, "steps": 3}, decided)


def test_a_whole_config_is_warned_of() -> None:
    """It may be that of another call, too, where they act."""

    def call() -> None:
        check_settings(Config(steps=3, seed=1), {"steps": "the caller", "seed": "chance"})

    with pytest.warns(RuntimeWarning) as told:
        call()
    assert [str(own.message) for own in told] == [
        "steps: got 3, without effect: here the caller decides",
        "seed: got 1, without effect: here chance decides",
    ]
    assert {own.filename for own in told} == {__file__}
