"""`greater-fast resume`: which settings it takes; what becomes of them is a run's tests'."""

from typing import Any

import pytest

from greater_fast.cli import resume as cli
from greater_fast.cli.main import main


def test_device_dtype_and_what_a_run_takes_may_be_others(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(cli, "resume", lambda run, **given: asked.append(given["config"]))
    monkeypatch.setattr(cli, "print_result", lambda result, **_: 0)
    given = ["--device", "cpu", "--dtype", "float32", "--steps", "9", "--kv-cache-bytes", "4096"]
    assert main(["resume", str(tmp_path), *given]) == 0
    assert main(["resume", str(tmp_path)]) == 0
    others = {"device": "cpu", "dtype": "float32", "steps": 9, "kv_cache_bytes": 4096}
    assert asked == [others, {}]


def test_what_decides_the_result_may_not(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["resume", str(tmp_path), "--objective", "loss"])
    assert "--objective" in capsys.readouterr().err
