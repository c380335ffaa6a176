import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(module: str) -> Any:
    """What a module of this folder prints in a process without the interpreter."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.kernels.compiling.{module}"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def compiled() -> list[dict[str, Any]]:
    """What every kernel needs on every target."""
    found: list[dict[str, Any]] = run("compile_kernels")
    return found


def test_every_file_of_cases_is_compiled(compiled: list[dict[str, Any]]) -> None:
    assert {result["target"] for result in compiled} == {"80", "90", "100", "gfx942"}
    names = [(result["case"], result["target"]) for result in compiled]
    assert len(names) == len(set(names))


def test_every_kernel_has_a_case(compiled: list[dict[str, Any]]) -> None:
    texts = [file.read_text("utf-8") for file in (ROOT / "greater_fast/kernels/").glob("*/*.py")]
    kernels = {
        name for text in texts for name in re.findall(r"^def ([a-z]\w*_kernel)\(", text, re.M)
    }
    assert len(kernels) > 10
    assert {result["kernel"] for result in compiled} == kernels


def test_nothing_spills_but_what_its_case_names(compiled: list[dict[str, Any]]) -> None:
    assert [result for result in compiled if result["spills"] > result["max_spills"]] == []


def test_no_minimum_drops_a_nan(compiled: list[dict[str, Any]]) -> None:
    """The interpreter's keeps it; a cap on a GPU would make a number of it."""
    assert [result for result in compiled if result["dropping_minima"]] == []
    assert run("count_minima") == 1  # of a kernel that has one


@pytest.mark.parametrize("what", ["registers", "shared_bytes"])
def test_limits_are_kept(compiled: list[dict[str, Any]], what: str) -> None:
    assert [result for result in compiled if result[what] > result[f"max_{what}"]] == []


def test_the_sizes_of_a_packed_row_make_no_variants() -> None:
    """However many tokens, segments, blocks; whatever the scale and the window."""
    names = ("packed_attention_kernel", "query_gradient_kernel", "key_gradient_kernel")
    assert run("count_variants") == dict.fromkeys(names, 1)
