from pathlib import Path
from typing import Any

import pytest

from greater_fast.runs.result import Result
from greater_fast.runs.sitting.followers import followed
from greater_fast.search.nouns import Step


class Fails:
    """Hears of a run, and fails at its end."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def begin(self, run_dir: Path) -> None:
        self.heard.append(run_dir)

    def __call__(self, step: Step) -> None: ...

    def end(self, result: Result | None) -> None:
        self.heard.append(result)
        raise OSError("no network")


WARNING = r"on_step: its `end` failed \(OSError: no network\)"


def test_an_end_that_fails_takes_no_result(tmp_path: Path) -> None:
    follower = Fails()
    result: Any = object()
    with pytest.warns(RuntimeWarning, match=WARNING):
        assert followed(follower, tmp_path, lambda: result) is result
    assert follower.heard == [tmp_path, result]


def test_an_end_that_fails_hides_no_error(tmp_path: Path) -> None:
    follower, error = Fails(), KeyError("of the run")

    def run() -> Result:
        raise error

    with pytest.warns(RuntimeWarning, match=WARNING), pytest.raises(KeyError) as caught:
        followed(follower, tmp_path, run)
    assert caught.value is error
    assert follower.heard == [tmp_path, None]


def test_who_hears_steps_alone_is_told_of_nothing_else(tmp_path: Path) -> None:
    result: Any = object()
    for on_step in (None, lambda step: None):
        assert followed(on_step, tmp_path, lambda: result) is result
