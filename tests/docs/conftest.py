"""A place as a reader of the pages has it, but that models are tiny and runs are short."""

import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from greater_fast import Config, optimize
from tests.tiny import boolean_rows

FILES = {"train.jsonl": (0, 60), "dev.jsonl": (60, 90), "test.jsonl": (90, 120)}
MODELS = (
    *(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "meta-llama/Llama-3.1-8B-Instruct",
        "Qwen/Qwen2.5-3B-Instruct",
    ),
    *("model-a", "model-b", "MODEL"),
)


@pytest.fixture
def short_runs(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> None:
    """Settings that a page does not name are those of a search that takes no time."""
    defaults = Config.__init__.__kwdefaults__
    assert settings.keys() <= defaults.keys()
    monkeypatch.setattr(Config.__init__, "__kwdefaults__", {**defaults, **settings})


@pytest.fixture(scope="session")
def finished_run(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path, settings: dict[str, Any]
) -> Path:
    """The folder of a finished run on the first rows of train.jsonl."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimize(str(model_folder), _rows("train.jsonl"), config=settings, run_dir=folder)
    return folder


@pytest.fixture
def place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    short_runs: None,
    model_folder: Path,
) -> Iterator[Path]:
    """A working folder with files of rows, and a folder for each model's name."""
    for name in FILES:
        text = "".join(json.dumps(row) + "\n" for row in _rows(name))
        (tmp_path / name).write_text(text, encoding="utf-8")
    for name in ("rows.jsonl", "train.csv"):  # what is in a file says of which kind it is
        shutil.copyfile(tmp_path / "train.jsonl", tmp_path / name)
    for name in MODELS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(model_folder)
    monkeypatch.setattr("greater_fast.model.lm.smollm2_folder", lambda: str(model_folder))
    monkeypatch.setattr("greater_fast.memory.outline.smollm2_source", lambda: str(model_folder))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rows on which the tiny model is wrong throughout
        yield tmp_path


def _rows(name: str) -> list[dict[str, str]]:
    """Questions that stand in no other file, with their answers."""
    first, last = FILES[name]
    pairs = boolean_rows(last)[first:]
    return [{"question": question, "answer": answer} for question, answer in pairs]
