"""GReaTer's own command: its config files, its keys, its rows, its output."""

import ast
import csv
import importlib.util
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from greater_fast import Config, build_layouts, find_prompts, make_engine, make_extractor
from greater_fast.cli import main as cli
from greater_fast.examples.data import Example
from greater_fast.front_ends.released import Given, parse_overrides, read_config, run
from greater_fast.front_ends.released.search import _check_prefix, _new_path
from greater_fast.model.lm import LM
from greater_fast.ranks import Ranks
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.search.found import Found
from greater_fast.search.state import LoopState
from tests.conftest import shared_data
from tests.tiny import boolean_rows

pytestmark = [
    pytest.mark.front_ends,
    # the random model is wrong on all rows, whatever the prompt
    pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning"),
]
ROOT = Path(__file__).parents[2]
CONTROL = " proper logical reasoning and think step by step."
EXTRACTOR = "Therefore, the final answer is $"
SHORT = {"max_new_tokens": 6, "max_prompt_tokens": 40, "num_finalists": 3}
SHORT_OPTIONS = [part for k, v in SHORT.items() for part in (f"--{k.replace('_', '-')}", str(v))]
TEMPLATE = """
from ml_collections import config_dict


def get_config():
    config = config_dict.ConfigDict()
    config.train_data = ''
    config.n_train_data = 50
    config.n_steps = 105
    config.topk = 10
    config.topq = 5
    config.control_init = ' proper logical reasoning.'
    config.extractor_text = 'The answer is $'
    config.control_weight = 0.2
    config.anneal = True
    config.result_prefix = 'results/individual'
    config.model_paths = ['/data/vicuna']
    config.devices = ['auto']
    config.tokenizer_kwargs = [{"use_fast": False}]
    return config
"""
TRANSFER = """
import os

os.sys.path.append("..")
from configs.template import get_config as default_config


def get_config():
    config = default_config()
    config.result_prefix = 'results/transfer'
    config.model_paths = [%r, %r]
    config.tokenizer_paths = [%r, %r]
    config.devices = ["cpu", "cpu"]
    return config
"""


class Done(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], here: Path) -> Callable[..., Done]:
    def call(*arguments: object) -> Done:
        capsys.readouterr()
        status = cli.main(["released", *map(str, arguments), *SHORT_OPTIONS])
        return Done(status, *capsys.readouterr())

    return call


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str]]:
    return boolean_rows(12)


@pytest.fixture
def data(here: Path, rows: list[tuple[str, str]]) -> Path:
    """Rows as theirs: CSV, whatever its ending; the target is not what is to be answered."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["goal", "target", "final_target"])
    writer.writerows((goal, "so", answer) for goal, answer in rows)
    path = here / "rows.json"
    path.write_text(text.getvalue(), encoding="utf-8")
    return path


@pytest.fixture
def values(data: Path, model_folder: Path) -> dict[str, Any]:
    return {
        "train_data": str(data),
        "model_paths": [str(model_folder)],
        "control_init": CONTROL,
        "extractor_text": EXTRACTOR,
        "n_train_data": 4,
        "n_steps": 2,
        "result_prefix": "results/one",
    }


@pytest.fixture
def configs(here: Path, model_folder: Path) -> Path:
    """A folder of config files as theirs is, and in it the file for the tiny model."""
    folder = here / "experiments" / "configs"
    folder.mkdir(parents=True)
    (folder / "template.py").write_text(TEMPLATE)
    path = folder / "transfer_tiny.py"
    path.write_text(TRANSFER % ((str(model_folder),) * 4))
    return path


def as_options(values: dict[str, Any]) -> list[str]:
    return [f"--config.{name}={value}" for name, value in values.items()]


def written(here: Path, prefix: str = "results/one") -> Any:
    (path,) = (here / prefix).parent.glob(f"{Path(prefix).name}_*.json")
    assert re.fullmatch(r".*_\d{8}-\d\d:\d\d:\d\d\.json", path.name)
    return json.loads(path.read_text())


def quiet(values: dict[str, Any], settings: Any = None) -> tuple[Found, list[str]]:
    lines: list[str] = []
    return run(values, {**SHORT, **(settings or {})}, say=lines.append), lines


def controls_of(line: str) -> list[str]:
    """What the authors' scripts take out of a line of candidates."""
    return re.findall(r"'(.*?)'", line)


def test_their_command_on_their_file(command: Any, configs: Path, here: Path) -> None:
    data = shared_data("BBH/object_counting.json")
    done = command(
        f"--config={configs}",
        f"--config.train_data={data}",
        f"--config.control_init={CONTROL}",
        "--config.extractor_text=Therefore, the final answer is $",
        "--config.n_steps=2",
        "--config.n_train_data=4",
    )
    assert done.status == 0
    assert all(line.startswith("greater-fast: to go: ") for line in done.err.splitlines())
    log = written(here, "results/transfer")
    assert log.keys() == {"params", "controls", "losses", "runtimes", "tests"}
    assert [len(log[name]) for name in ("controls", "losses", "runtimes", "tests")] == [2, 2, 2, 0]
    with data.open(newline="", encoding="utf-8") as file:
        given = list(csv.DictReader(file))[:4]
    assert log["params"]["goals"] == [f"{row['goal']}. Use" for row in given]
    assert log["params"]["targets"] == [row["final_target"] for row in given]
    *_, line = (line for line in done.out.splitlines() if line.startswith("Step:"))
    assert 1 <= len(controls_of(line)) <= 10


def test_lines_are_theirs(values: dict[str, Any], here: Path) -> None:
    found, lines = quiet({**values, "n_steps": 17})
    log = written(here)
    steps = [line for line in lines if line.startswith("Step:")]
    found_so_far = list(zip(log["losses"], log["controls"], strict=True))
    for number, line in zip((0, 15, 16), steps, strict=True):
        begin, _, candidates = line.partition("Candidates:  ")
        assert begin == f"Step:  {number} "
        listed = ast.literal_eval(candidates)
        assert listed == sorted({*found_so_far[: number + 1]})[:10]
        assert controls_of(line) == [control for _, control in listed]
    assert all(control.startswith(" ") and "_" not in control for control in log["controls"])
    new = [line for line in lines if line.startswith("New Control:")]
    pairs = zip(log["controls"], log["losses"], strict=True)
    assert new == [f"New Control: {control}, New Loss: {loss}" for control, loss in pairs]
    current = [line for line in lines if line.startswith("Current Loss:")]
    best = [min(log["losses"][: i + 1]) for i in range(17)]
    assert [float(line.split()[5]) for line in current] == best
    assert all(seconds > 0 for seconds in log["runtimes"])
    assert f"Chosen Control:  {found.best.prompt}, by its loss on the training rows" in lines


def test_it_is_the_released_rule_on_these_rows(
    values: dict[str, Any], rows: list[tuple[str, str]], lm: LM, here: Path
) -> None:
    found, _ = quiet({**values, "data_offset": 2, "topk": 12, "topq": 6, "seed": 3})
    settings = {"steps": 2, "top_k": 12, "num_draws": 6, "seed": 3, **SHORT}
    config = Config.paper(**settings, num_train=4, device=None)
    assert config.accept == "best"
    examples = [Example(f"{goal}. Use", answer) for goal, answer in rows[2:6]]
    layouts = build_layouts(lm, examples, CONTROL, make_extractor(EXTRACTOR), config)
    engine, _ = make_engine(lm, config)
    steps: list[Any] = []
    expected = find_prompts(engine, layouts, config, on_step=steps.append)
    assert found.prompts == expected.prompts
    log = written(here)
    assert log["controls"] == [f" {step.prompt}" for step in steps]
    assert log["params"]["settings"]["max_new_tokens"] == 6


def test_the_prompt_goes_on_from_the_goal(
    values: dict[str, Any], lm: LM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids that the engine reads are those of the goal, ". Use" and the control, as one text."""
    read_contexts: list[tuple[int, ...]] = []
    run_engine = RolloutEngine.run

    def recorded(engine: RolloutEngine, requests: Any, *given: Any) -> Any:
        read_contexts.extend(request.prompt_ids for request in requests)
        return run_engine(engine, requests, *given)

    monkeypatch.setattr(RolloutEngine, "run", recorded)
    quiet({**values, "n_steps": 0})
    goal = boolean_rows(1)[0][0]
    turns = [{"role": "user", "content": f"{goal}. Use {CONTROL.strip()}"}]
    expected = lm.tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    assert read_contexts[0] == tuple(expected)


def test_defaults_are_the_templates() -> None:
    given, idle = Given.of({"train_data": "rows.csv", "model_paths": ["m", "m"]})
    assert idle == ()
    config = given.config(50, {})
    assert config == Config.paper(max_new_tokens=1024)
    assert (given.n_train_data, given.n_test_data, given.data_offset) == (50, 0, 0)
    assert given.control == CONTROL.strip() + " Finally give the actual correct answer."
    more = {"devices": ["auto"], "allow_non_ascii": True, "train_data": "r", "model_paths": ["m"]}
    assert Given.of(more)[0].config(1, {"steps": 3}) == Config.paper(
        max_new_tokens=1024, num_train=2, allowed="prompt", steps=3
    )
    assert Given.of({**more, "devices": ["cpu", "cpu"]})[0].config(9, {}).device == "cpu"


def test_keys_without_effect_are_told_and_change_nothing(
    command: Any, values: dict[str, Any], here: Path
) -> None:
    plain = command(*as_options(values))
    log = written(here)
    other = {**values, "control_weight": 0.5, "anneal": True, "result_prefix": "results/two"}
    noted = command(*as_options(other))
    assert "without effect: anneal, control_weight\n" in noted.out
    assert "without effect" not in plain.out
    other_log = written(here, "results/two")
    assert (other_log["controls"], other_log["losses"]) == (log["controls"], log["losses"])


def test_draws_of_all_rows_are_told(values: dict[str, Any]) -> None:
    """A draw has 5 rows: of so many, or fewer, one is like the other, however many there are."""
    note, prompts = "without effect: topq, as all rows are in each draw", []
    for number, given, is_told in ((5, {"topq": 9}, True), (6, {"topq": 9}, False), (5, {}, False)):
        changed = {"n_train_data": number, "result_prefix": f"results/{number}{len(given)}"}
        found, lines = quiet({**values, **changed, **given})
        assert (note in lines) == is_told
        if number == 5:
            prompts.append(found.prompts)
    assert prompts[0] == prompts[1]


def test_two_runs_of_one_second_write_two_files(tmp_path: Path) -> None:
    prefix = str(tmp_path / "new" / "one")
    _check_prefix(prefix)
    paths = [_new_path(prefix) for _ in range(3)]
    assert len(set(paths)) == 3
    assert all(path.exists() and path.suffix == ".json" for path in paths)


def test_test_rows_choose(values: dict[str, Any], here: Path, rows: Any) -> None:
    """They are the rows behind, as far into the other file where there is one, as there."""
    found, lines = quiet({**values, "n_test_data": 3})
    log = written(here)
    assert log["params"]["test_goals"] == [f"{goal}. Use" for goal, _ in rows[4:7]]
    tests = log["tests"]
    assert {t["control"] for t in tests} == {f" {prompt.prompt}" for prompt in found.prompts}
    judged = {f" {prompt.prompt}": prompt.judged for prompt in found.prompts}
    assert all(t["total"] == 3 for t in tests)
    assert {t["control"]: t["right"] / 3 for t in tests} == judged
    assert lines[-1].startswith(f"Chosen Control:  {found.best.prompt}, by ")
    assert lines[-1].endswith(
        f"of which the initial one has {round(3 * (found.initial.judged or 0))}"
    )
    assert not any("in training, too" in line for line in lines)
    twice = here / "twice.csv"
    twice.write_text("final_target,goal\n" + "yes,Is it?\nno,Is it not?\n" * 2)
    given = {"train_data": str(twice), "n_train_data": 2, "n_test_data": 2, "n_steps": 0}
    _, lines = quiet({**values, **given, "result_prefix": "twice"})
    assert "2 questions of the test rows are in training, too" in lines
    other = here / "other.tsv"
    other.write_text("final_target\tgoal\n" + "".join(f"(B)\tWhich {i}?\n" for i in range(9)))
    given = {"n_test_data": 9, "test_data": str(other), "result_prefix": "two"}
    _, lines = quiet({**values, **given})
    behind = "behind config.data_offset + config.n_train_data rows"
    assert f"test rows begin at row 5 of {other}: {behind}" in lines
    params = written(here, "two")["params"]
    assert params["test_goals"] == [f"Which {i}?. Use" for i in range(4, 9)]
    assert params["test_targets"] == ["B"] * 5
    given = {"n_test_data": 2, "test_data": str(other), "data_offset": 6}
    message = f"got 9 rows, expected some from row 11 on: {behind}"
    with pytest.raises(ValueError, match=re.escape(message)):
        quiet({**values, **given})


def test_an_extractor_is_derived_where_none_is_given(values: dict[str, Any]) -> None:
    _, lines = quiet({**values, "extractor_text": "", "n_steps": 0})
    assert any(line.startswith("extractor (derived: one of False, True)") for line in lines)
    assert [line for line in lines if line.startswith(("Step", "New", "Current"))] == []


def test_how_long_the_rest_will_take_is_told_on_standard_error(
    command: Any, values: dict[str, Any]
) -> None:
    done = command(*as_options({**values, "n_steps": 5, "n_test_data": 3}))
    assert done.status == 0
    assert "to go" not in done.out
    first, second, third = done.err.splitlines()
    begin, seconds = "greater-fast: to go: about ", r"[\d.]+ (s|min)"
    guess = r"\(guessed from the score of the initial prompt\)"
    for line, num_left, how in (
        (first, "5 steps", guess),
        (second, "4 steps", r"\(as the last one took\)"),
        (third, "2 steps", r"\(as the last 2 took\)"),
    ):
        assert re.match(rf"{begin}{seconds} at most: {num_left} of {seconds} {how}, ", line)
        assert "num_train" not in line  # n_train_data says
    without = command(*as_options({**values, "n_steps": 1, "result_prefix": "two"}))
    (only,) = without.err.splitlines()
    assert re.search(rf"at most: 1 step of .*{guess}, 0\.0 s for finals", only)
    none = command(*as_options({**values, "n_steps": 0, "result_prefix": "three"}))
    assert none.err == ""


def test_steps_that_end_early_are_told(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found last stands in the last line of candidates, whatever ended the search."""
    next_position = LoopState.next_position

    def until_3(state: LoopState, *given: Any) -> Any:
        return None if state.step == 3 else next_position(state, *given)

    monkeypatch.setattr(LoopState, "next_position", until_3)
    _, lines = quiet({**values, "n_steps": 30})
    assert [line.split()[1] for line in lines if line.startswith("Step:")] == ["0", "2"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config.n_steps=20"], {"n_steps": 20}),
        (["--config.n_steps", "20", "--config.anneal=True"], {"n_steps": 20, "anneal": True}),
        (["--config.model_paths=['a','b']"], {"model_paths": ["a", "b"]}),
        (["--config.control_init= 12"], {"control_init": " 12"}),
        (["--config.extractor_text=a=b $ "], {"extractor_text": "a=b $ "}),
        (["--config.attack=gcg"], {"attack": "gcg"}),
        (["--config.anneal"], {"anneal": True}),
        (["--config.verbose", "--config.topk=3"], {"verbose": True, "topk": 3}),
        (["--config.anneal", "--noconfig.verbose"], {"anneal": True, "verbose": False}),
        (["--config.allow_non_ascii", "False"], {"allow_non_ascii": False}),
    ],
)
def test_overrides(arguments: list[str], expected: dict[str, Any]) -> None:
    assert parse_overrides(arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.n_stps=20"], "--config.n_stps: no such key, did you mean n_steps"),
        (["--config.zzz=20"], "no such key; known are .*n_steps"),
        (["rows.csv"], "got 'rows.csv', expected --config.KEY=VALUE"),
        (["--config.n_steps"], "--config.n_steps: expected a value"),
        (["--config.n_steps", "--noconfig.anneal"], "--config.n_steps: expected a value"),
        (["--config.anneal", "--stps=3"], "got '--stps=3', expected --config.KEY=VALUE"),
        (["--noconfig.n_steps"], "got '--noconfig.n_steps', expected --config.KEY=VALUE"),
        (["--config.n_steps", "--config.topk=3"], "--config.n_steps: expected a value"),
    ],
)
def test_overrides_that_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_overrides(arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_steps": "many"}, "config.n_steps: got 'many', expected a whole number from 0 on"),
        ({"topk": 0}, "config.topk: got 0, expected a whole number from 1 on"),
        ({"topq": True}, "config.topq: got True"),
        ({"control_init": None}, "config.control_init: got None, expected a text"),
        ({"model_paths": "tiny"}, "config.model_paths: got 'tiny', expected a list of texts"),
        ({"model_paths": ["a", "b"]}, "expected one model"),
        ({"model_paths": []}, "expected one model"),
        ({"tokenizer_paths": ["b"]}, "config.tokenizer_paths: got .*'b'.*, expected the model's"),
        ({"allow_non_ascii": 1}, "config.allow_non_ascii: got 1, expected True or False"),
        ({"train_data": ""}, "config.train_data: expected a file, got none"),
        ({"train_data": "none.csv"}, "none.csv"),
        ({"data_offset": 12}, "got 12 rows, expected some from row 13 on"),
        ({"n_test_data": 2, "data_offset": 8}, "got 12 rows, expected some from row 13 on"),
        ({"control_init": " Think"}, "expected 2 to"),
        ({"result_prefix": "rows.json/one"}, "config.result_prefix: no "),
    ],
)
def test_values_that_are_refused(
    command: Any, values: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        quiet({**values, **change})


@pytest.mark.parametrize(
    ("name", "value", "decides"),
    [
        ("extractor", "Hello there", "config.extractor_text"),
        ("num_train", 2, "config.n_train_data"),
        ("num_dev", 2, "config.n_test_data"),
        ("minutes", 5.0, "config.n_steps"),
        ("template", "{goal}", "the goals of config.train_data"),
    ],
)
def test_settings_that_keys_decide_are_refused(
    command: Any, values: dict[str, Any], here: Path, name: str, value: Any, decides: str
) -> None:
    message = f"{name}: got {value!r}, expected none: here {decides} decides"
    with pytest.raises(ValueError, match=re.escape(message)):
        quiet(values, {name: value})
    done = command(*as_options(values), f"--{name.replace('_', '-')}={value}")
    assert done.status == 2
    assert message in done.err
    assert list(here.glob("results/*")) == []


def test_one_process_searches(
    values: dict[str, Any], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="not for several processes"):
        quiet(values, {"tensor_parallel": True})
    monkeypatch.setattr("greater_fast.front_ends.released.search.join", lambda: Ranks(0, 2))
    with pytest.raises(ValueError, match="not for several processes"):
        quiet(values)
    assert list(here.glob("results/*.json")) == []


def test_the_extractor_that_was_used_is_written_down(values: dict[str, Any], here: Path) -> None:
    quiet({**values, "n_steps": 0})
    assert written(here)["params"]["settings"]["extractor"] == EXTRACTOR
    given = {"extractor_text": "", "n_steps": 0, "result_prefix": "results/two"}
    _, lines = quiet({**values, **given})
    used = written(here, "results/two")["params"]["settings"]["extractor"]
    assert any(line.startswith("extractor (derived: ") and repr(used) in line for line in lines)


def test_rows_that_are_refused(values: dict[str, Any], here: Path) -> None:
    path = here / "bad.csv"
    for text in ("goal,target\nIs it?,yes\n", "goal,final_target\nIs it?,yes\n ,no\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"bad.csv: got .* in row \d, expected a goal"):
            quiet({**values, "train_data": str(path)})
    path.write_text("goal,final_target\nIs it?,yes or $ no\n")
    with pytest.raises(ValueError, match="would never be right"):
        quiet({**values, "train_data": str(path)})
    for name in ("train_data", "model_paths"):
        with pytest.raises(ValueError, match=f"config.{name}: expected one, got none"):
            quiet({key: value for key, value in values.items() if key != name})


def test_a_key_that_only_the_file_has_is_known(
    command: Any, configs: Path, values: dict[str, Any]
) -> None:
    text = configs.read_text().replace(
        "    return config", "    config.own = False\n    return config"
    )
    configs.write_text(text)
    del values["model_paths"]
    done = command(f"--config={configs}", "--config.own", *as_options(values), "--config.verbose")
    assert done.status == 0
    assert "without effect: anneal, control_weight, own, tokenizer_kwargs, verbose\n" in done.out


def test_errors_of_input_end_with_2(command: Any, values: dict[str, Any], here: Path) -> None:
    for wrong in ("--config.n_stps=3", "--config.n_steps=x", "--config=none.py", "--steps"):
        if wrong == "--steps":
            with pytest.raises(SystemExit, match="2"):
                command(*as_options(values), wrong)
            continue
        done = command(*as_options(values), wrong)
        assert done.status == 2
        assert wrong.lstrip("-").partition("=")[0] in done.err
    assert list(here.glob("results/*")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("get_config = 3", "failed: TypeError"),
        ("x = 1", "failed: KeyError"),
        ("import no_such_module", "failed: No module named 'no_such_module'"),
        ("def get_config(): return 3", "got 3 from get_config"),
        ("def get_config(:", "failed: SyntaxError"),
    ],
)
def test_files_that_are_refused(here: Path, text: str, message: str) -> None:
    (here / "config.py").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_config("config.py")


def test_a_file_leaves_nothing_behind(configs: Path, here: Path) -> None:
    """Two folders of the same name have each its own template."""
    before = list(sys.path)
    assert read_config(configs)["n_steps"] == 105
    other = here / "other" / "configs"
    other.mkdir(parents=True)
    (other / "template.py").write_text(TEMPLATE.replace("105", "7"))
    (other / "tiny.py").write_text(configs.read_text())
    assert read_config(other / "tiny.py")["n_steps"] == 7
    assert sys.path == before
    assert not any(name.startswith("configs") for name in sys.modules)
    plain = here / "plain.py"
    plain.write_text("def get_config():\n    return {'n_steps': 3}\n")
    assert read_config(plain) == {"n_steps": 3}


def test_what_a_file_needs_is_named(configs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_collections", None)
    with pytest.raises(ImportError, match=r"pip install 'greater-fast\[released\]'"):
        read_config(configs)


def test_the_example(here: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("example", ROOT / "examples" / "released.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.main(str(model_folder), num_train=3, num_test=2, steps=1, max_new_tokens=4)
    assert "Chosen Control:" in capsys.readouterr().out
