"""Our top-level `kernels` folder must not pass for the hub's package of that name."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
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
        [sys.executable, "-W", "error", "-c", PROGRAM],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert Path(done.stdout.strip()) == ROOT / "kernels" / "__init__.py"
