"""`greater-fast plan`, and the same plan at the start of a run."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from greater_fast import optimize
from greater_fast.api import plan
from greater_fast.examples.tasks import TASKS
from greater_fast.model.lm import LM
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.runs.directory import read_run
from greater_fast.runs.prepare import Prepared
from greater_fast.runs.timing.time_budget import MARGIN
from tests.tiny import PROMPT

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")
PARTS = ["weights", "gradient", "logits", "overhead", "K/V pool"]


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads weights fails."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)


@pytest.mark.usefixtures("no_weights")
def test_a_plan_that_fits(command: Any, model_folder: Path, data: Path, limits: list[str]) -> None:
    done = command(
        *("plan", "--model", model_folder, "--data", data, "--gpu-memory", "24GiB", *limits)
    )
    assert (done.status, done.err) == (0, "")
    for part in (*PARTS, "embeddings in 16 bits", "fit into 24.00 GiB"):
        assert part in done.out


@pytest.mark.usefixtures("no_weights")
def test_a_plan_that_does_not(
    command: Any, model_folder: Path, data: Path, limits: list[str]
) -> None:
    arguments = ("plan", "--model", model_folder, "--train", data, *limits)
    done = command(*arguments, "--gpu-memory", "1GiB")
    assert (done.status, done.err) == (1, "")
    assert "do not fit into 1.00 GiB" in done.out
    assert "no setting is enough: take a smaller model" in done.out
    values = command(*arguments, "--gpu-memory", "1GiB", "--json").values
    assert values["fits"] is False
    assert [need["name"] for need in values["needs"]] == PARTS


@pytest.mark.usefixtures("no_weights")
def test_without_a_size_it_is_the_devices_own(
    command: Any, model_folder: Path, limits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("greater_fast.runs.prepare.memory_bytes", lambda *_: 5 << 30)
    arguments = ("plan", "--model", model_folder, "--task", sorted(TASKS)[0], "--json")
    values = command(*arguments, "--device", "cpu", *limits).values
    assert values["total_bytes"] == 5 << 30
    assert "embeddings in 32 bits" in values["needs"][0]["how"]


@pytest.mark.usefixtures("no_weights")
def test_the_work_is_told_without_weights(
    command: Any, model_folder: Path, data: Path, limits: list[str]
) -> None:
    """4 training rows, 2 steps of 3 candidates; 3 prompts on 4 development rows."""
    arguments = ("plan", "--model", model_folder, "--data", data, *limits)
    out = command(*arguments, "--device", "cpu").out
    assert "work at most: 2 steps with 28 rollouts and the gradients of 8 rows, 16 rows" in out
    assert out.endswith("\nhow long that takes: --measure 3\n")
    values = command(*arguments, "--device", "cpu", "--json").values
    assert values["work"]["searched_rows"] == 28
    assert (values["time"], values["shares"]) == (None, None)
    out = command(*arguments, "--device", "cpu", "--minutes", 5).out
    assert out.endswith(
        "\nhow long that takes, and what minutes=5 leaves for the search: --measure 3\n"
    )


def test_the_time_is_measured(
    command: Any, model_folder: Path, data: Path, limits: list[str], tmp_path: Path
) -> None:
    """Two of 90 steps are taken, and nothing is left behind."""
    rows = ("--model", model_folder, "--data", data, "--device", "cpu", *limits, "--steps", 90)
    before = sorted(tmp_path.iterdir())
    done = command("plan", *rows, "--measure", 2)
    assert done.status == 0
    assert re.search(r"about \S+ \w+ at most: 90 steps of .* \(as the last one took\)", done.out)
    assert "step 2 of 2" in done.err
    assert sorted(tmp_path.iterdir()) == before
    values = command("plan", *rows, "--measure", 1, "--json").values
    time = values["time"]
    assert (time["num_steps"], time["num_measured"]) == (90, 1)
    assert set(time["step"]) == {"propose", "gradient", "score", "select", "else"}
    finals = time["finals"]
    assert (finals["num_finalists"], finals["num_tests"]) == (3, 2)
    assert time["seconds"] == pytest.approx(
        90 * sum(time["step"].values()) + 3 * finals["dev"] + finals["train"] + 2 * finals["test"]
    )


def test_what_minutes_leave_is_told(
    model_folder: Path, rows: list[Any], settings: dict[str, Any]
) -> None:
    """Finals and test have their part, with a margin, and the search has what is left of it."""
    config = {**settings, "steps": 90, "minutes": 60}
    planned = plan(model_folder, rows, prompt=PROMPT, config=config, measure=1)
    shares, estimate = planned.shares, planned.time
    assert shares is not None
    assert estimate is not None
    assert 0 < shares.left < 3600
    assert shares.finals == pytest.approx(MARGIN * estimate.finals.seconds)
    assert shares.search == pytest.approx(shares.left - shares.finals)
    assert shares.num_steps == 90
    assert planned.to_dict()["shares"]["num_steps"] == 90
    assert "; minutes=60 leaves " in planned.describe_time(60)
    short = plan(model_folder, rows, prompt=PROMPT, config={**config, "minutes": 0.001}, measure=1)
    assert "; minutes=0.001 cannot be kept: it leaves " in short.describe_time(0.001)


def test_a_plan_takes_a_metric(
    model_folder: Path, rows: list[Any], settings: dict[str, Any]
) -> None:
    """The work is that of answers that are generated, and it is called for those of the steps."""
    answers: list[str] = []

    def measure(predicted: str, example: Any) -> float:
        answers.append(predicted)
        return float(predicted == example.answer)

    given = {"prompt": PROMPT, "config": settings}
    without, named = (
        plan(model_folder, rows, **given),
        plan(model_folder, rows, **given, metric="exact"),
    )
    planned = plan(model_folder, rows, **given, metric=measure, measure=1)
    assert planned.work == named.work != without.work
    assert planned.needs == named.needs
    assert len(answers) >= 4
    with pytest.raises(ValueError, match="metric: got 3, expected a function"):
        plan(model_folder, rows, **given, metric=3)  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_weights")
def test_nothing_is_measured_where_the_memory_is_not_enough(
    model_folder: Path,
    rows: list[Any],
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("greater_fast.runs.prepare.memory_bytes", lambda *_: 1 << 20)
    planned = plan(model_folder, rows, prompt=PROMPT, config=settings, measure=2)
    assert (planned.fits, planned.time) == (False, None)


@pytest.mark.parametrize("measure", [-1, True, 1.5, "3"])
def test_steps_that_cannot_be_measured(
    model_folder: Path, rows: list[Any], settings: dict[str, Any], measure: Any
) -> None:
    with pytest.raises(ValueError, match=r"measure: got .*, expected a number of steps, or 0"):
        plan(model_folder, rows, prompt=PROMPT, config=settings, measure=measure)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpu-memory", "24G"], "--gpu-memory: got '24G', expected a size such as 24GiB"),
        (["--gpu-memory", "8GiB", "--measure", "2"], "measure: steps are taken on the device"),
        (["--gpu-memory", "24"], "--gpu-memory: got '24', 24 bytes: write 24GiB"),
        (["--gpu-memory", "0GiB"], "--gpu-memory: got '0GiB', expected at least one byte"),
        (["--gpu-memory", "8GiB", "--device", "cpu"], "gpu_memory: a run on device cpu"),
        (["--device", "cuda:99"], "device: got 'cuda:99', which is not to be had here"),
        (["--kv-cache-bytes", "1"], "kv_cache_bytes: the pool of 1 bytes is too small"),
        (["--difficulty", "2"], "--difficulty is for rows that --task generates"),
    ],
)
def test_bad_input(
    command: Any,
    model_folder: Path,
    data: Path,
    limits: list[str],
    options: list[str],
    message: str,
) -> None:
    done = command("plan", "--model", model_folder, "--data", data, *limits, *options)
    assert (done.status, done.out) == (2, "")
    assert message in done.err


def test_a_run_keeps_to_its_plan(
    command: Any,
    model_folder: Path,
    data: Path,
    limits: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[int] = []
    make = RolloutEngine.__init__

    def seen(self: RolloutEngine, *args: Any, **kwargs: Any) -> None:
        given.append(kwargs["kv_cache_bytes"])
        make(self, *args, **kwargs)

    monkeypatch.setattr(RolloutEngine, "__init__", seen)
    rows = ("--model", model_folder, "--train", data, "--device", "cpu", *limits)
    planned = command("plan", *rows, "--json").values
    run = tmp_path / "run"
    done = command("optimize", *rows, "--run-dir", run, "--steps", 0)
    assert done.status == 0
    assert planned["verdict"] in done.out
    kept = read_run(run)["run"]["memory_plan"]
    assert kept == {name: planned[name] for name in kept}
    assert read_run(run)["run"]["config"]["kv_cache_bytes"] is None
    assert given == [planned["pool_bytes"]]
    command("optimize", *rows, "--steps", 0, "--kv-cache-bytes", 1 << 21, "--run-dir", run / "b")
    assert given[1:] == [1 << 21]


def test_a_loaded_model_is_planned_for_as_it_is(
    lm: LM, rows: list[Any], settings: dict[str, Any]
) -> None:
    own = plan(lm, rows, prompt=PROMPT, config=settings)
    assert "embeddings in 32 bits" in own.needs[0].how
    on_gpu = plan(lm, rows, prompt=PROMPT, config=settings, gpu_memory=1 << 34)
    assert on_gpu.total_bytes == 1 << 34
    assert on_gpu.needs[0] == own.needs[0]


def test_a_run_that_does_not_fit(
    model_folder: Path,
    rows: list[Any],
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A GPU's is refused before the weights are read; on a CPU it is a warning."""
    monkeypatch.setattr("greater_fast.runs.prepare.memory_bytes", lambda *_: 1 << 20)
    config = {**settings, "steps": 0}

    def run() -> None:
        optimize(model_folder, rows, prompt=PROMPT, config=config, run_dir=tmp_path / "run")

    with pytest.warns(RuntimeWarning, match="does not fit the memory of cpu; memory: weights"):
        run()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["memory_plan"]["advice"]

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("greater_fast.runs.models.ready.load_lm", fail)
    memory = Prepared.memory

    def on_a_gpu(self: Prepared, config: Any, total_bytes: int | None = None) -> Any:
        object.__setattr__(self, "device", "cuda")
        return memory(self, config, total_bytes)

    monkeypatch.setattr(Prepared, "memory", on_a_gpu)
    with pytest.raises(ValueError, match=r"does not fit the memory of cuda; .*; no setting is"):
        optimize(model_folder, rows, prompt=PROMPT, config=config, run_dir=tmp_path / "other")
    assert not (tmp_path / "other").exists()
