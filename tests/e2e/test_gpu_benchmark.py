import json
import subprocess
from pathlib import Path

import pytest

from benchmarks import gpu

SCRIPT = Path(gpu.__file__).with_name("run_gpu.sh")


@pytest.mark.filterwarnings("ignore:all . training rows are wrong:RuntimeWarning")
@pytest.mark.parametrize("part", ["kernels", "rollouts", "step", "capped", "reference"])
def test_each_part_runs_on_tiny_shapes(part):
    work, text = gpu.PARTS[part](gpu.SMOKE, True)
    assert text
    assert json.loads(json.dumps(work)).keys() == work.keys()


def test_rollouts_do_not_depend_on_the_batch():
    work, _ = gpu.rollouts(gpu.SMOKE, True)
    assert work["same_alone"] == [True, True]
    assert [found["batch"] for found in work["generate"]] == list(gpu.SMOKE.generated)


def test_no_model_no_texts(monkeypatch):
    monkeypatch.delenv(gpu.MODEL_VARIABLE, raising=False)
    assert gpu.texts(gpu.SMOKE, True)[0] == {}


def test_the_script_runs_every_part():
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    named = [
        line.split()[1] for line in SCRIPT.read_text().splitlines() if line.startswith("part ")
    ]
    assert named == list(gpu.PARTS)
