"""A setting that changes nothing beside the others is named, with the reason."""

import dataclasses
from typing import Any

import pytest

from greater_fast.config import Config
from greater_fast.runs.input import OF_EVALUATION, for_evaluation, idle_settings

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
]


@pytest.mark.parametrize(("settings", "named"), CASES)
def test_idle_settings_are_named(settings: dict[str, Any], named: list[str]) -> None:
    notes = idle_settings(Config(**settings))
    assert [note.split(": without effect on the search, as ")[0] for note in notes] == named


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
