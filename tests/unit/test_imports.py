"""What is imported with the package, and what is not."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Our top-level `kernels` folder must not pass for the hub's package of that name.
KERNELS = """
import transformers
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from transformers.utils import is_kernels_available
assert not is_kernels_available()
config = transformers.LlamaConfig(
    vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
)
assert isinstance(AutoModelForCausalLM.from_config(config), LlamaForCausalLM)
import kernels
print(kernels.__file__)
"""


def test_transformers_imports_cleanly_from_the_root() -> None:
    """As a user in a clone does: `python -c` puts the working directory first on the path."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", KERNELS],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert Path(done.stdout.strip()) == ROOT / "kernels" / "__init__.py"


FRONT_ENDS = """
import sys

NAMES = {"absl", "dspy", "gepa", "litellm", "lm_eval", "ml_collections", "promptolution"}
asked = []


class Blocking:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in NAMES:
            asked.append(name)
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Blocking())
import greater_fast
import greater_fast.cli.commands
import greater_fast.cli.main
import greater_fast.export.formats
import greater_fast.front_ends.endpoint
import greater_fast.front_ends.greaterprompt
import greater_fast.front_ends.released

for name in greater_fast.__all__:  # what a module offers is imported when it is asked for
    getattr(greater_fast, name)
assert asked == []
assert NAMES.isdisjoint(sys.modules)
"""


def test_no_package_of_a_front_end_is_asked_for() -> None:
    """Not even by an import whose failure is caught."""
    command = [sys.executable, "-c", FRONT_ENDS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
