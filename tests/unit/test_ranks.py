import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from greater_fast.ranks import ALONE

ROOT = Path(__file__).resolve().parents[2]


def test_alone_everything_is_ones_own() -> None:
    rows = torch.ones(2, 3)
    assert (ALONE.rank, ALONE.size, ALONE.is_first) == (0, 1, True)
    assert ALONE.from_first("a") == "a"
    assert ALONE.gathered([1]) == [[1]]
    assert ALONE.gathered_rows(rows)[0] is rows
    with pytest.raises(KeyError), ALONE.together():
        raise KeyError("mine")
    assert ALONE.num_bytes == 0


def test_a_process_alone_imports_no_torch() -> None:
    script = (
        "import sys; from greater_fast.ranks import join; r = join(); "
        "assert (r.size, r.place('cpu')) == (1, 'cpu'); r.gathered(1); assert 'torch' not in sys.modules"
    )
    environ = {k: v for k, v in os.environ.items() if k != "WORLD_SIZE"}
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, env=environ)
