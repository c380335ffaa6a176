"""Weights & Biases: by a module with the same calls, and by the real one without a network."""

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from greater_fast import optimize
from greater_fast.model.lm import LM
from greater_fast.trackers.wandb import WandB
from tests.tiny import PROMPT

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")


class FakeWandB(ModuleType):
    """Takes the calls, and keeps them."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.Settings = dict
        self.has_key = True
        self.run: Any = None

    def setup(self) -> Any:
        mode = os.environ.get("WANDB_MODE", "online")
        return SimpleNamespace(settings=SimpleNamespace(mode=mode, silent=False))

    def login(self, *, prompt: bool, verify: bool) -> bool:
        assert not prompt
        assert not verify  # which asks the server, though `init` does so too
        return self.has_key

    def init(self, **given: Any) -> Any:
        self.calls.append(("init", given))

        def log(values: dict[str, Any], step: int) -> None:
            self.calls.append(("log", {"step": step, **values}))

        def finish(exit_code: int) -> None:
            self.calls.append(("finish", {"exit_code": exit_code}))

        summary: dict[str, Any] = {}
        self.calls.append(("summary", summary))
        return SimpleNamespace(log=log, finish=finish, summary=summary)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeWandB:
    module = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", module)
    for name in ("WANDB_PROJECT", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    return module


def test_a_run_is_logged_by_its_calls(
    fake: FakeWandB, lm: LM, rows: Any, settings: Any, tmp_path: Path
) -> None:
    run = tmp_path / "first"
    result = optimize(lm, rows, prompt=PROMPT, config=settings, run_dir=run, on_step=WandB())
    assert [name for name, _ in fake.calls] == ["init", "summary", "log", "log", "finish"]
    (_, begun), (_, summary), (_, first), (_, second), (_, end) = fake.calls
    assert begun["project"] == "greater_fast"
    assert (begun["name"], begun["dir"]) == ("first", str(run))
    assert begun["config"]["prompt"] == PROMPT
    assert begun["settings"]["console"] == "off"
    assert [first["step"], second["step"]] == [1, 2]
    assert [first["objective"], second["objective"]] == [s.objective for s in result.steps]
    assert summary["result/dev_accuracy/best"] == result.dev_accuracy
    assert end == {"exit_code": 0}


def test_without_a_key_nobody_is_asked_for_one(
    fake: FakeWandB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.has_key = False
    with pytest.warns(RuntimeWarning, match="no key: set WANDB_API_KEY"):
        WandB().begin(tmp_path)
    assert fake.calls == []
    monkeypatch.setenv("WANDB_MODE", "offline")
    WandB().begin(tmp_path)
    assert [name for name, _ in fake.calls] == ["init", "summary"]


def test_a_run_that_the_caller_has_begun_is_logged_to_and_left_open(
    fake: FakeWandB, lm: LM, rows: Any, settings: Any, tmp_path: Path
) -> None:
    """As a sweep begins one; its count of steps is the caller's."""
    told: dict[str, Any] = {}
    config = SimpleNamespace(update=lambda values, allow_val_change: told.update(values))
    lines: list[dict[str, Any]] = []
    fake.run = SimpleNamespace(log=lines.append, summary={}, config=config)
    fake.has_key = False  # nobody is asked for one
    run = tmp_path / "first"
    result = optimize(lm, rows, prompt=PROMPT, config=settings, run_dir=run, on_step=WandB())
    assert fake.calls == []
    assert [line["step"] for line in lines] == [1, 2]
    assert [line["objective"] for line in lines] == [s.objective for s in result.steps]
    assert told["prompt"] == PROMPT
    assert fake.run.summary["result/dev_accuracy/best"] == result.dev_accuracy
    assert not (run / "wandb.id").exists()


def test_a_run_that_goes_on_is_the_same_one(fake: FakeWandB, tmp_path: Path) -> None:
    for folder in ("a", "a", "b"):
        (tmp_path / folder).mkdir(exist_ok=True)
        tracker = WandB()
        tracker.begin(tmp_path / folder)
        tracker.end(None)
    first, again, other = [given["id"] for name, given in fake.calls if name == "init"]
    assert first == again != other
    assert all(given["resume"] == "allow" for name, given in fake.calls if name == "init")
    assert [given["exit_code"] for name, given in fake.calls if name == "finish"] == [1, 1, 1]


def test_the_real_one_keeps_a_run_without_a_network_or_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lm: LM, rows: Any, settings: Any
) -> None:
    import wandb

    key = "0123456789abcdef0123456789abcdef01234567"
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", key)
    run = tmp_path / "run"
    optimize(lm, rows, prompt=PROMPT, config=settings, run_dir=run, on_step=WandB())
    wandb.teardown()  # its process may write to the file until it ends
    (file,) = run.glob("wandb/offline-run-*/run-*.wandb")
    kept = file.read_bytes()
    assert b"result/dev_accuracy/best" in kept
    assert b"seconds/gradient" in kept
    others = [path for path in run.rglob("*") if path.is_file()]
    assert len(others) > 5
    assert not [path for path in others if key.encode() in path.read_bytes()]
