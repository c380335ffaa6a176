"""What a run was made with is kept, as far as it is the same machine's; what cannot be is noted."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from greater_fast.config import Config
from greater_fast.runs.saved.saved_run import SavedRun
from greater_fast.runs.sitting.sit import _divides_by_memory, _held

CHOICES = {"engine": "paged", "kv_cache_bytes": 1 << 30, "max_step_tokens": 512}


def saved(device: str) -> SavedRun:
    run: dict[str, Any] = {"device": device, "engines": [CHOICES], "config": Config().to_dict()}
    return SavedRun(run, [])


@pytest.mark.parametrize(("before", "now"), [("cuda:0", "cuda"), ("cpu", "cpu")])
def test_on_the_same_device_all_is_kept_but_what_was_changed(before: str, now: str) -> None:
    assert _held(None, Config(), now) == []
    assert _held(saved(before), Config(), now) == [CHOICES]
    given = Config(kv_cache_bytes=1 << 20)
    others = {name: CHOICES[name] for name in ("engine", "max_step_tokens")}
    assert _held(saved(before), given, now) == [others]


@pytest.mark.parametrize(("before", "now"), [("cuda:0", "cpu"), ("cpu", "cuda")])
def test_on_another_device_nothing_is_kept(before: str, now: str) -> None:
    assert _held(saved(before), Config(), now) == []


@pytest.mark.parametrize(
    ("device", "settings", "expected"),
    [
        ("cuda", {}, True),
        ("cpu", {}, False),
        ("cuda", {"gradient_batch_tokens": 512}, False),
        ("cuda", {"shortlist": "random"}, False),
    ],
)
def test_a_gpu_s_free_memory_decides_how_many_rows_a_gradient_takes(
    device: str, settings: dict[str, Any], expected: bool
) -> None:
    model: Any = SimpleNamespace(lm=SimpleNamespace(device=torch.device(device)))
    assert _divides_by_memory(model, Config(**settings)) is expected


@pytest.mark.parametrize(("begun", "last"), [("cpu", "cuda"), ("cuda:0", "cpu")])
def test_what_is_kept_is_of_the_device_of_the_last_sitting(begun: str, last: str) -> None:
    """A run may have moved meanwhile: what was found out there is no other device's."""
    moved = saved(begun)
    moved.run["engines_device"] = last
    assert _held(moved, Config(), begun) == []
    assert _held(moved, Config(), last) == [CHOICES]
