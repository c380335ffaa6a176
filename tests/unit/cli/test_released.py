"""`greater-fast released` without a config file, which needs no package of others."""

import json
from pathlib import Path
from typing import Any

import pytest

from greater_fast.cli.commands import parser
from tests.tiny import EXTRACTOR, boolean_rows

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")


def test_keys_and_settings_stand_side_by_side(
    command: Any, model_folder: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.csv"
    lines = [f"{question},{answer}\n" for question, answer in boolean_rows(3)]
    rows.write_text("goal,final_target\n" + "".join(lines))
    done = command(
        "released",
        f"--config.model_paths=['{model_folder}']",
        f"--config.train_data={rows}",
        f"--config.extractor_text={EXTRACTOR}",
        "--max-new-tokens=4",
        "--config.n_steps",
        1,
        f"--config.result_prefix={tmp_path / 'found'}",
    )
    assert done.status == 0
    (told,) = done.err.splitlines()
    assert told.startswith("greater-fast: to go: about ")
    (path,) = tmp_path.glob("found_*.json")
    log = json.loads(path.read_text())
    assert len(log["controls"]) == 1
    assert log["params"]["settings"]["max_new_tokens"] == 4


def test_arguments_that_are_not_known_are_kept_for_it_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = parser().parse_args(["released", "--config.a=1", "--steps", "3", "--config.b", " c"])
    assert given.overrides == ["--config.a=1", "--config.b", " c"]
    assert vars(given)["config.steps"] == 3
    with pytest.raises(SystemExit, match="2"):
        parser().parse_args(["show", "runs/first", "--config.n_steps=2"])
    assert "unrecognized arguments: --config.n_steps=2" in capsys.readouterr().err
