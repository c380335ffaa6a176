"""What the command line settles before torch is imported, in processes of their own."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys, types
import greater_fast.__main__ as start
assert "torch" not in sys.modules
command = types.ModuleType("greater_fast.cli.main")
command.main = lambda: print(os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"))
sys.modules["greater_fast.cli.main"] = command
start.main()
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, "None 1000"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None"),
        ({"GOMP_SPINCOUNT": "7"}, "None 7"),
    ],
)
def test_threads_wait_briefly_unless_the_user_says_how(own: dict[str, str], expected: str) -> None:
    rest = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=rest | own,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == expected


def test_public_names_are_found_when_they_are_asked_for() -> None:
    program = (
        "import greater_fast, sys; assert 'torch' not in sys.modules; "
        "assert set(greater_fast.__all__) <= set(dir(greater_fast)); "
        "assert all(hasattr(greater_fast, name) for name in greater_fast.__all__); "
        "assert not hasattr(greater_fast, 'unheard_of')"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
