import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import main as gpu
from benchmarks.gpu.model import SMOKE
from benchmarks.gpu.rollouts import MODEL_VARIABLE

SCRIPT = Path(gpu.__file__).parents[1] / "run_gpu.sh"


@pytest.mark.filterwarnings("ignore:all . training rows are wrong:RuntimeWarning")
@pytest.mark.parametrize("part", ["kernels", "rollouts", "step", "capped", "reference"])
def test_each_part_runs_on_tiny_shapes(part):
    work, text = gpu.PARTS[part](SMOKE, True)
    assert text
    assert json.loads(json.dumps(work)).keys() == work.keys()


def test_rollouts_do_not_depend_on_the_batch():
    work, _ = gpu.PARTS["rollouts"](SMOKE, True)
    assert work["same_alone"] == [True, True]
    assert [found["batch"] for found in work["generate"]] == list(SMOKE.generated)


def test_no_model_no_texts(monkeypatch):
    monkeypatch.delenv(MODEL_VARIABLE, raising=False)
    assert gpu.PARTS["texts"](SMOKE, True)[0] == {}


def test_what_was_not_run_leaves_what_was_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv(MODEL_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "argv", ["main", "texts", "--smoke", "--out", str(tmp_path)])
    gpu.main()
    assert capsys.readouterr().out.startswith("texts: not run: ")
    assert list(tmp_path.iterdir()) == []


def test_tiny_shapes_are_no_figures(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["main", "texts", "--smoke", "--out", str(gpu.RESULTS)])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "for tiny shapes, which measure nothing" in capsys.readouterr().err


def test_the_script_runs_every_part():
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    named = [
        line.split()[1] for line in SCRIPT.read_text().splitlines() if line.startswith("part ")
    ]
    assert named == list(gpu.PARTS)
