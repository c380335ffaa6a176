"""Beside the rest of DSPy: saved programs, its optimizers, a user's whole script."""

import importlib.util
import json
import logging
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.teleprompt import BetterTogether

from greater_fast.front_ends.dspy import GReaTer, GreaterEngine, local_lm
from tests.docs.pages import ROOT
from tests.front_ends.dspy_programs.programs import (
    SEARCH,
    Lenient,
    LenientLast,
    compiled,
    examples,
    odd,
    thought,
)
from tests.tiny import PROMPT

pytestmark = pytest.mark.front_ends


def test_a_compiled_program_is_saved_and_loaded(asked: Any, tmp_path: Path) -> None:
    with dspy.context(lm=asked, adapter=LenientLast()):
        better, optimizer = compiled(thought())
        better.save(tmp_path / "program.json")
        again = thought("Something else entirely.")
        again.load(tmp_path / "program.json")
        row = examples(1)[0]
        assert again.predict.signature.instructions == optimizer.report["prompt"]
        assert again(**row.inputs()).reasoning == better(**row.inputs()).reasoning


def test_an_lm_is_saved_by_its_model(model_folder: Path, tmp_path: Path) -> None:
    config = {"max_new_tokens": 4, "chat_template_kwargs": {}, "device": "cpu"}
    asked = local_lm(str(model_folder), config=config)
    program, again = thought(), thought("Something else entirely.")
    program.set_lm(asked)
    program.save(tmp_path / "program.json")
    state = json.loads((tmp_path / "program.json").read_text())["predict"]["lm"]
    saved = {"model": str(model_folder), "config": {"max_new_tokens": 4, "device": "cpu"}}
    assert state["engine"]["state"] == state["async_engine"]["state"] == saved
    again.load(tmp_path / "program.json", allow_unsafe_lm_state=True)
    assert again.predict.signature.instructions == PROMPT
    assert again.predict.lm.engine is asked.engine  # which is alive
    assert pickle.loads(pickle.dumps(asked.engine)) is asked.engine
    question = examples(1)[0].inputs()
    with dspy.context(adapter=Lenient()):
        assert again(**question).answer == program(**question).answer
    del asked, program, again, state
    other = GreaterEngine.load_state(saved)
    assert (other.config.max_new_tokens, other.lm.name) == (4, str(model_folder))


def test_an_lm_of_a_loaded_model_is_not_saved(asked: Any, tmp_path: Path) -> None:
    program = thought()
    program.set_lm(asked)
    with pytest.raises(ValueError, match="given as an object, which a saved program cannot name"):
        program.save(tmp_path / "program.json")


def test_better_together_runs_it(asked: Any) -> None:
    program = thought()
    program.set_lm(asked)
    with dspy.context(adapter=LenientLast()):
        optimizer = BetterTogether(odd, p=GReaTer(odd, config=SEARCH))
        better = optimizer.compile(program, trainset=examples(10), valset_ratio=0.4, strategy="p")
        assert not better.flag_compilation_error_occurred
        scores = {each["strategy"]: each["score"] for each in better.candidate_programs}
        assert scores.keys() == {"", "p"}
        assert scores["p"] >= scores[""]
    assert better.predict.lm.engine is asked.engine


SCRIPT = """
import sys

import dspy

from greater_fast.front_ends.dspy import local_lm
from tests.front_ends.dspy_programs.programs import SEARCH, LenientLast, compiled, examples, thought

asked = local_lm(sys.argv[1], config={"max_new_tokens": 4})
with dspy.context(lm=asked, adapter=LenientLast(), track_usage=True):
    better, _ = compiled(thought(), config={**SEARCH, "steps": 1})
    usage = better(**examples(1)[0].inputs()).get_lm_usage()
assert usage[asked.model]["prompt_tokens"] > 100
assert "litellm" not in sys.modules
"""


def test_nothing_deprecated_is_used_and_no_litellm(model_folder: Path) -> None:
    """In a process of its own, where neither another test nor a fixture has imported anything."""
    command = [sys.executable, "-W", "error", "-c", SCRIPT, str(model_folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("greater_fast.front_ends.dspy")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dspy", None)
    with pytest.raises(ImportError, match=r"pip install 'greater-fast\[dspy\]'"):
        importlib.import_module("greater_fast.front_ends.dspy")


@pytest.fixture
def configured_for_a_while() -> Iterator[None]:
    """What a program configures for its process is put back."""
    level = logging.getLogger("dspy").level
    yield
    dspy.configure(lm=None, adapter=None)
    logging.getLogger("dspy").setLevel(level)


@pytest.mark.usefixtures("configured_for_a_while")
def test_the_example_runs(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "examples" / "dspy_program.py"
    spec = importlib.util.spec_from_file_location("dspy_program", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(str(model_folder), steps=1, num_train=4, num_val=3, max_tokens=6)
    told = capsys.readouterr().out
    found = re.search(r"^to   '(.+)'$", told, re.MULTILINE)
    assert f"loaded again: '{found[1]}'" in told
    assert "num_unread on validation rows: 3 -> 3" in told
