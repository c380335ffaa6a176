"""`greater-fast ui` where it cannot serve a page."""

import sys
from pathlib import Path
from typing import Any

import pytest


def test_without_gradio_it_names_the_extra(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # which the command sets
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "")
    done = command("ui", "--runs", tmp_path / "runs")
    assert done.status == 1
    assert "pip install 'greater-fast[ui]'" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--port", "70000"), "--port: got 70000"), (("--runs", __file__), "another folder")],
)
def test_what_cannot_be_is_said(command: Any, arguments: tuple[str, ...], message: str) -> None:
    done = command("ui", *arguments)
    assert done.status == 2
    assert message in done.err
