"""The command line in-process: what it prints, what it returns, and where."""

import datetime
import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

from greater_fast import optimize
from greater_fast.cli import commands
from greater_fast.cli import main as cli
from greater_fast.config import Config
from greater_fast.examples.tasks import TASKS, generate
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.runs.directory import read_run
from greater_fast.runs.progress import shortened
from tests.tiny import PROMPT, boolean_rows

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")

ROOT = Path(__file__).parents[3]
BRACKETS = "Use [b] and :smile: and end with [/INST] in the form [yes] or [no]."


def test_optimize_prints_the_result_as_json(
    command: Any, model_folder: Path, data: Path, limits: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = command(
        "optimize", "--model", model_folder, "--train", data, "--run-dir", run, "--json", *limits
    )
    assert done.status == 0
    told = done.err.splitlines()
    assert told[0] == f"greater-fast: run directory: {run}"
    assert f"greater-fast: loading {model_folder} on cpu in float32" in done.err
    assert "greater-fast: dev: " in done.err  # as all notes, before the first score
    del told[: told.index("greater-fast: scoring the initial prompt on 4 rows")]
    estimates = [line for line in told if line.startswith("greater-fast: to go: about ")]
    assert [told.index(line) for line in estimates] == [2, 4]
    assert [line for line in told if line not in estimates] == [
        "greater-fast: scoring the initial prompt on 4 rows",
        "greater-fast: training rows, initial prompt: 3 of 4 reasonings were cut off at 6 tokens "
        "(max_new_tokens)",
        *(
            f"greater-fast: step {step['step'] + 1} of 2: objective {step['objective']:.4f}, "
            f"{'' if step['changed'] else 'unchanged '}{shortened(step['prompt'])!r}"
            for step in read_run(run)["steps"]
        ),
        *(
            f"greater-fast: development rows, prompt {n} of {len(done.values['finalists'])}"
            for n in range(1, len(done.values["finalists"]) + 1)
        ),
        "greater-fast: training rows, the initial prompt",
    ]
    assert done.values == read_run(run)["result"]
    assert read_run(run)["run"]["config"]["max_new_tokens"] == 6
    config = Config.from_mapping(read_run(run)["run"]["config"])
    result = optimize(str(model_folder), str(data), config=config, run_dir=tmp_path / "again")
    same = {**json.loads(json.dumps(result.to_dict())), "run_dir": str(run)}
    assert done.values == same


def test_optimize_prints_prompts_and_accuracies(
    command: Any, model_folder: Path, data: Path, limits: list[str], tmp_path: Path
) -> None:
    test = tmp_path / "test.jsonl"
    test.write_text(
        "".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in boolean_rows(16)[12:])
    )
    run = tmp_path / "run"
    done = command(
        *("optimize", "--model", model_folder, "--train", data, "--test", test),
        *("--run-dir", run, *limits),
    )
    assert done.status == 0
    for part in (
        "train: 4 of 12 rows used",
        "extractor (derived: one of False, True)",
        f"initial prompt: {PROMPT}",
        "best prompt: ",
        "dev accuracy",
        "test accuracy",
        "of 4 rows (95% interval ",
        f"run directory: {run}",
    ):
        assert part in done.out


def test_generated_task(
    command: Any, model_folder: Path, limits: list[str], tmp_path: Path
) -> None:
    task = sorted(TASKS)[0]
    run = tmp_path / "run"
    done = command(
        *("optimize", "--model", model_folder, "--task", task, "--difficulty", 1),
        *("--run-dir", run, "--json", *limits, "--steps", 0),
    )
    assert done.status == 0
    assert [e["split"] for e in read_run(run)["examples"]] == ["train"] * 4 + ["dev"] * 4
    refused = command("optimize", "--model", "m", "--task", task, "--difficulty", 99)
    assert refused.status == 2
    assert "difficulty" in refused.err


def test_generated_test_rows(
    command: Any, model_folder: Path, limits: list[str], tmp_path: Path
) -> None:
    """They stand behind the rows of the search, which are those of a run without them."""
    task, run = sorted(TASKS)[0], tmp_path / "run"
    arguments = ("optimize", "--model", model_folder, "--task", task, *limits, "--steps", 0)
    done = command(*arguments, "--num-test", 3, "--run-dir", run)
    assert done.status == 0
    examples = read_run(run)["examples"]
    assert [e["split"] for e in examples] == ["train"] * 4 + ["dev"] * 4 + ["test"] * 3
    rows = [row.question for row in generate(task, 11, 0)]
    assert {e["question"] for e in examples[:8]} == set(rows[:8])
    assert [e["question"] for e in examples[8:]] == rows[8:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "a.csv", "--num-test", "3"], "--num-test is for rows that --task generates"),
        (["--task", "object_counting", "--test", "a.csv", "--num-test", "3"], "without --test"),
        (["--task", "object_counting", "--num-test", "0"], "--num-test: got 0, expected 1"),
    ],
)
def test_test_rows_that_cannot_be_generated(
    command: Any, data: Path, arguments: list[str], message: str
) -> None:
    given = [str(data) if argument == "a.csv" else argument for argument in arguments]
    done = command("optimize", "--model", "m", *given)
    assert (done.status, done.out) == (2, "")
    assert message in done.err


def test_the_demonstration_says_what_it_gained_on_rows_never_seen(
    command: Any, model_folder: Path, tmp_path: Path
) -> None:
    recipe = (ROOT / "Makefile").read_text().replace("\\\n", "")
    found = re.search(r"greater-fast (optimize .*)\s--run-dir", recipe)
    assert found
    assert "--num-test" in found[1]
    done = command(
        *found[1].replace("smollm2-135m", str(model_folder)).split(),
        *("--run-dir", tmp_path / "run"),
        *("--num-train", 2, "--num-dev", 2, "--num-test", 3, "--steps", 0, "--max-new-tokens", 2),
    )
    assert done.status == 0
    assert "test accuracy" in done.out


def test_difficulty_of_rows_from_a_file(command: Any, data: Path) -> None:
    done = command("optimize", "--model", "m", "--train", data, "--difficulty", 3)
    assert (done.status, done.out) == (2, "")
    assert "--difficulty is for rows that --task generates" in done.err


def test_template_arguments_that_are_no_json(
    command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command("plan", "--model", "m", "--train", "a", "--chat-template-kwargs", "{thinking: 1}")
    assert ended.value.code == 2
    expected = "got '{thinking: 1}', expected JSON such as {\"enable_thinking\": false}: Expecting"
    assert expected in capsys.readouterr().err


def test_config_file_and_options_that_win(
    command: Any, model_folder: Path, data: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**settings, "seed": 3, "chat_template_kwargs": {"a": 1}}))
    began = datetime.date.today().isoformat()
    done = command(
        *("optimize", "--model", model_folder, "--train", data, "--config", file, "--json"),
        *("--run-dir", tmp_path / "run", "--steps", 1, "--chat-template-kwargs", "{}"),
    )
    assert done.status == 0
    config = read_run(tmp_path / "run")["run"]["config"]
    day = config["template_date"]
    assert began <= day <= datetime.date.today().isoformat()
    assert config == {
        **Config(**settings).to_dict(),
        "seed": 3,
        "steps": 1,
        "template_date": day,
    }


def test_wrong_settings_of_file_and_options_are_named_at_once(
    command: Any, data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"objektive": "loss", "top_k": 0}))
    done = command(
        *("optimize", "--model", "m", "--train", data, "--config", file, "--num-train", 1)
    )
    assert (done.status, done.out) == (2, "")
    for part in ("objektive: unknown, did you mean objective?", "top_k: got 0", "num_train: got 1"):
        assert part in done.err


@pytest.mark.parametrize("content", ["{", "[1]", '[["steps", 3]]', "[]", "3", "null", None])
def test_config_file_that_cannot_be_read(
    command: Any, data: Path, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "config.json"
    if content is not None:
        file.write_text(content)
    done = command("optimize", "--model", "m", "--train", data, "--config", file)
    assert done.status == 2
    assert f"--config: cannot read {file} as a JSON object" in done.err


def test_bad_input_is_status_2(command: Any, data: Path, tmp_path: Path) -> None:
    done = command("optimize", "--model", "absent.gguf", "--train", data)
    assert done == (2, "", "greater-fast: no GGUF file at absent.gguf\n")
    done = command("optimize", "--model", "m", "--train", tmp_path / "absent.csv")
    assert done.status == 2
    assert "no such file" in done.err


def test_loss_that_is_not_finite_is_status_1(
    command: Any, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise FloatingPointError("the loss of example 3 is nan")

    monkeypatch.setattr(commands, "optimize", fail)
    done = command("optimize", "--model", "m", "--train", data)
    assert (done.status, done.out) == (1, "")
    assert done.err == "greater-fast: the loss of example 3 is nan; where in the program: --debug\n"


def test_interruption_prints_the_best_prompt_and_is_status_130(
    command: Any,
    model_folder: Path,
    data: Path,
    limits: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    arguments = ("optimize", "--model", model_folder, "--train", data, *limits, "--run-dir")
    with monkeypatch.context() as patch:
        patch.setattr("greater_fast.runs.models.mean_evaluation.evaluate_prompt", interrupt)
        done = command(*arguments, tmp_path / "run")
    assert done.status == 130
    assert "stopped: interrupted (2 steps)" in done.out
    assert f"best prompt: {read_run(tmp_path / 'run')['result']['prompt']}\n" in done.out
    monkeypatch.setattr(RolloutEngine, "run", interrupt)
    done = command(*arguments, tmp_path / "early")
    assert (done.status, done.out) == (130, "")
    assert done.err.endswith(
        f"\ngreater-fast: interrupted; what the run wrote is in {tmp_path / 'early'}: greater-fast "
        "resume goes on with it\n"
    )
    monkeypatch.setattr("greater_fast.runs.sitting.sit.prepare", interrupt)
    done = command(*arguments, tmp_path / "earlier")
    assert done == (130, "", "greater-fast: interrupted before the first score\n")
    assert not (tmp_path / "earlier").exists()


def test_show_a_finished_run(command: Any, finished: Path) -> None:
    done = command("show", finished)
    result = read_run(finished)["result"]
    assert (done.status, done.err) == (0, "")
    for part in ("prompts on the development rows", "dev accuracy", "stopped: all steps done"):
        assert part in done.out
    assert result["prompt"] in " ".join(done.out.split())


def test_show_an_unfinished_run(command: Any, unfinished: Path) -> None:
    done = command("show", unfinished)
    assert done.status == 0
    last = read_run(unfinished)["steps"][-1]["prompt"]
    assert f"unfinished; last prompt: {last}" in " ".join(done.out.split())
    assert "development rows" not in done.out
    (unfinished / "steps.jsonl").unlink()
    assert f"last prompt: {PROMPT}" in " ".join(command("show", unfinished).out.split())


def test_show_as_json(command: Any, finished: Path, unfinished: Path) -> None:
    run = read_run(finished)
    assert command("show", finished, "--json").values == {
        key: run[key] for key in ("run", "steps", "result")
    }
    assert command("show", unfinished, "--json").values["result"] is None


def test_show_a_folder_without_a_run(command: Any, tmp_path: Path) -> None:
    done = command("show", tmp_path)
    assert (done.status, done.out) == (2, "")
    assert "holds no run (no run.json)" in done.err


@pytest.fixture
def bracketed(finished: Path, tmp_path: Path) -> Path:
    """A finished run whose prompts have brackets."""
    run = tmp_path / "bracketed"
    shutil.copytree(finished, run)
    for name in ("run.json", "steps.jsonl", "result.json"):
        text = (run / name).read_text(encoding="utf-8")
        (run / name).write_text(text.replace(PROMPT, BRACKETS), encoding="utf-8")
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    for prompt in (result["best"], result["baseline"], *result["finalists"]):
        prompt["prompt"] = BRACKETS
    (run / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return run


def test_show_prints_brackets_as_they_are_on_a_terminal(
    command: Any, bracketed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    done = command("show", bracketed)
    assert (done.status, done.err) == (0, "")
    assert "\x1b[" in done.out
    assert f"best prompt: {BRACKETS}\n" in done.out
    cells = "".join("".join(line.split("│")[-1:]) for line in done.out.splitlines() if "│" in line)
    assert "".join(BRACKETS.split()) in "".join(cells.split())
    (bracketed / "result.json").unlink()
    (bracketed / "steps.jsonl").unlink()
    assert f"unfinished; last prompt: {BRACKETS}\n" in command("show", bracketed).out


def test_show_a_run_interrupted_in_the_finals(command: Any, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "interrupted"
    shutil.copytree(finished, run)
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    best = {**result["baseline"], "prompt": "Another.", "prompt_ids": [1]}
    initial = {**result["baseline"], "dev": None}
    values = {"stopped": "interrupted", "baseline": initial, "dev_comparison": None}

    def show(best: dict[str, Any]) -> str:
        written = {**result, **values, "best": best, "finalists": [best, initial]}
        (run / "result.json").write_text(json.dumps(written), encoding="utf-8")
        done = command("show", run)
        assert (done.status, done.err) == (0, "")
        return str(done.out)

    assert "the run ended early: 1 of 2 prompts were measured" in show(best)
    assert "no prompt was measured on the development rows" in show({**best, "dev": None})


def test_warnings_of_the_package_are_one_plain_line(
    command: Any, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others: list[Any] = []
    text = "all 4 training rows are wrong for every prompt so far:\n  use easier rows"
    package = Path(cli.__file__).parents[1]

    def warn(*args: Any, **kwargs: Any) -> None:
        warnings.warn_explicit(text, RuntimeWarning, str(package / "runs/run.py"), 70)
        warnings.warn_explicit("of others", UserWarning, "/elsewhere/module.py", 7)
        raise FloatingPointError("stop here")

    monkeypatch.setattr(commands, "optimize", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = lambda *shown: others.append(shown)
        before = warnings.showwarning
        done = command("optimize", "--model", "m", "--train", data)
        assert warnings.showwarning is before
    plain, failed = done.err.splitlines()
    assert str(package).endswith("greater_fast")
    assert plain == f"greater-fast: warning: {' '.join(text.split())}"
    assert failed.startswith("greater-fast: stop here")
    ((message, category, filename, lineno, *_),) = others
    shown = (str(message), category, filename, lineno)
    assert shown == ("of others", UserWarning, "/elsewhere/module.py", 7)


def test_flat_rows_are_warned_of_once(
    command: Any, model_folder: Path, data: Path, limits: list[str], tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        done = command(
            *("optimize", "--model", model_folder, "--train", data, *limits),
            *("--run-dir", tmp_path / "run"),
        )
    assert done.status == 0
    assert done.err.count("greater-fast: warning: all 4 training rows are ") == 1
    assert all(line.startswith("greater-fast: ") for line in done.err.splitlines())


@pytest.mark.parametrize(
    ("given", "told"),
    [("--stepz", "--stepz 2, did you mean --steps?"), ("--stepz=2", "did you mean --steps?")],
)
def test_of_an_unknown_option_the_nearest_known_one_is_named(
    given: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    value = [] if "=" in given else ["2"]
    arguments = ["optimize", "--model", "m", "--train", "rows.jsonl", given, *value]
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    error = capsys.readouterr().err
    assert told in error
    assert "usage: greater-fast optimize" in error


def test_arguments_that_nobody_knows_are_repeated_in_short(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["show", "runs/first", "\r" * 1900])
    error = capsys.readouterr().err.partition("error: ")[2]
    assert "unrecognized arguments: \\u000d" in error
    assert len(error) < 2000
