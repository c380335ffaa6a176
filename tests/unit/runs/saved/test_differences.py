from typing import Any

import pytest

from greater_fast.config import Config
from greater_fast.runs.saved.differences import (
    CHANGEABLE,
    OF_MEMORY,
    compare_examples,
    compare_functions,
    compare_identity,
    compare_layout,
    compare_settings,
    surroundings_notes,
)

RUN: dict[str, Any] = {
    "config": Config(steps=5, template_date="2026-01-02").to_dict(),
    "prompt": "think",
    "dtype": "float32",
    "weights": ["w"],
    "model_config": ["c"],
    "end_ids": [[2]],
    "layout": "l",
    "num_ranks": 1,
    "device": "cpu",
    "machine": "x86",
    "num_threads": 2,
    "versions": {"torch": "2.11", "python": "3.11.1"},
}


def now(**values: Any) -> Config:
    return Config.from_mapping({**RUN["config"], **values})


def test_the_same_settings_say_nothing() -> None:
    assert compare_settings(RUN, now()) == ()
    assert compare_settings(RUN, now(steps=6, minutes=3, device="cuda", dtype="bfloat16")) == ()
    older = {name: value for name, value in RUN["config"].items() if name != "race"}
    assert compare_settings({"config": older}, now()) == ()  # a setting that there was not yet


def test_what_may_be_changed() -> None:
    of_memory = {"kv_cache_bytes", "max_step_tokens", "draft_tokens", "batch_size"}
    of_memory |= {"gradient_batch_tokens", "gradient_checkpointing"}
    assert set(OF_MEMORY) == of_memory
    assert set(CHANGEABLE) == of_memory | {
        *("steps", "stop_unchanged", "minutes", "device", "dtype")
    }


@pytest.mark.parametrize("name", OF_MEMORY)
def test_settings_of_memory_are_noted(name: str) -> None:
    value = "on" if name == "gradient_checkpointing" else 64
    (note,) = compare_settings(RUN, now(**{name: value}))
    assert note.startswith(f"resumed with {name} {RUN['config'][name]}, now {value}: where two")


def test_all_other_settings_are_refused_by_name() -> None:
    others = {
        "int": lambda value: value + 1,
        "float": lambda value: value / 2 + 0.25,
        "bool": lambda value: not value,
    }
    for name, value in RUN["config"].items():
        change = others.get(type(value).__name__)
        if change and name not in CHANGEABLE:
            with pytest.raises(ValueError, match=rf"\({name} .*, now .*\)"):
                compare_settings(RUN, now(**{name: change(value)}))
    named = {"objective": "loss", "accept": "best", "engine": "generate", "gradient": "both"}
    named |= {"extractor": "So {answer}.", "metric": "exact", "shortlist": "random"}
    for name, value in named.items():
        with pytest.raises(ValueError, match=rf"\({name} .*, now .*\)"):
            compare_settings(RUN, now(**{name: value}))
    with pytest.raises(
        ValueError, match="steps: got 2, the run has done 3: none can be taken back"
    ):
        compare_settings(RUN, now(steps=2), 3)
    assert compare_settings(RUN, now(steps=3), 3) == ()


def test_functions_are_asked_for_again() -> None:
    none = dict.fromkeys(("on_step", "loss", "metric", "judge"))
    compare_functions(RUN, none)
    named = {"config": {**RUN["config"], "metric": "numeric"}, "metric": "numeric"}
    compare_functions(named, none)  # a setting, and no function
    compare_functions({**RUN, "on_step": "f"}, {**none, "on_step": "g"})
    compare_functions(RUN, {**none, "on_step": "g"})
    for name in none:
        with pytest.raises(ValueError, match=rf"^{name}: .*'f', which no file holds: give it"):
            compare_functions({**RUN, name: "f"}, none)
    for name in ("loss", "metric", "judge"):
        with pytest.raises(ValueError, match=f"^{name}: got 'g', the run was begun with 'f'"):
            compare_functions({**RUN, name: "f"}, {**none, name: "g"})
        with pytest.raises(ValueError, match=f"^{name}: got 'g', the run was begun with None"):
            compare_functions(RUN, {**none, name: "g"})


def test_rows_that_differ_are_counted() -> None:
    def rows(*numbers: int) -> list[dict[str, int]]:
        return [{"answer": number} for number in numbers]

    compare_examples(rows(1, 2, 3), rows(1, 2, 3))
    compare_examples([{"answer": "5"}], [{"answer": "5", "answers_given": ["5.0"]}])  # older
    for others, number in (
        (rows(1, 5, 3), 1),
        (rows(1, 2), 1),
        ([], 3),
        (rows(3, 2, 1, 4), 3),
        ([*rows(1, 2), {}], 1),
    ):
        with pytest.raises(ValueError, match=f"{number} of 3 rows are not those"):
            compare_examples(rows(1, 2, 3), others)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("prompt", "t", "prompt: got 't', the run was begun with 'think'"),
        ("dtype", "bfloat16", "dtype: the model is of bfloat16, the run was begun with float32"),
        ("weights", ["x"], "model: its weights are not those"),
        ("model_config", ["d"], r"model: its config\.json is not that"),
        ("end_ids", [[2, 3]], r"model: the ids .* are \[\[2, 3\]\], the run .* with \[\[2\]\]"),
        ("layout", "m", "the rows have other token ids"),
    ],
)
def test_what_a_run_is_known_by(name: str, value: Any, message: str) -> None:
    compare_identity(RUN, {**RUN, "num_ranks": 2, "device": "cuda:0"})
    compare_layout(RUN, {**RUN, "num_ranks": 2, "weights": ["x"]})
    compare = compare_layout if name in ("prompt", "layout") else compare_identity
    with pytest.raises(ValueError, match=message):
        compare(RUN, {**RUN, name: value})
    older = {name: RUN[name] for name in RUN if name not in ("model_config", "end_ids")}
    compare_identity(older, RUN)


def test_a_shared_model_is_shared_by_as_many() -> None:
    shared = {**RUN, "config": now(tensor_parallel=True).to_dict(), "num_ranks": 2}
    compare_layout(shared, shared)
    with pytest.raises(ValueError, match="a model in 2 parts, now there are 4"):
        compare_layout(shared, {**shared, "num_ranks": 4, "layout": "m"})


def test_other_surroundings_are_noted() -> None:
    assert surroundings_notes(RUN, RUN) == ()
    versions = {"torch": "2.12", "python": "3.11.1"}
    (note,) = surroundings_notes(RUN, {**RUN, "versions": versions, "num_threads": 4})
    assert note.startswith("resumed with torch 2.11, now 2.12, num_threads 2, now 4: where two")
