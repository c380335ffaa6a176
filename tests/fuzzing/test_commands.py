"""Whatever stands on a command line, the command ends with a status and a sentence."""

import contextlib
import io
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greater_fast.cli.main import main
from tests.fuzzing import commands, inputs
from tests.fuzzing.test_input import LONGEST_MESSAGE, ROWS, unhurried

SETTINGS = st.sampled_from(
    (b'{"steps": 1}', b"[" * 100_000, b'{"seed": 1e999, "x": 1}', b'{"steps": NaN}', b"\xff", b"")
)


def ended(line: list[str]) -> tuple[int, str]:
    """The status that a command line ends with, and what it says on standard error."""
    told = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
    with (
        contextlib.redirect_stdout(told[0]),
        contextlib.redirect_stderr(told[1]),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", RuntimeWarning)  # ours
        try:
            status = main(line)
        except SystemExit as end:  # argparse's
            status = int(end.code or 0)
    return status, told[1].buffer.getvalue().decode()  # type: ignore[attr-defined]


def check(line: list[str]) -> int:
    """The status, where it and what is said go together."""
    status, said = ended(line)
    assert "Traceback" not in said
    assert "\x1b" not in said
    if status == 1 and line[0] != "plan":
        assert "ReachedError" in said, said
    elif status:
        assert status in (1, 2), said
        assert status == 1 or 0 < len(said.partition("error: ")[2] or said) <= LONGEST_MESSAGE + 100
    return status


@unhurried
@given(
    line=commands.lines(),
    content=inputs.files(),
    more=inputs.files(),
    chosen=SETTINGS | inputs.files(),
)
def test_any_line(
    before_model_work: None,
    model_folder: Path,
    tmp_path: Path,
    line: list[str],
    content: bytes,
    more: bytes,
    chosen: bytes,
) -> None:
    places = {commands.NEW: str(tmp_path / "new"), commands.MODEL: str(model_folder)}
    written = {commands.DATA: content, commands.MORE_DATA: more, commands.SETTINGS: chosen}
    for place, file_content in written.items():
        path = tmp_path / place.strip("{}")
        path.write_bytes(file_content)
        places[place] = str(path)
    for place, named in places.items():
        line = [argument.replace(place, named) for argument in line]
    check(line)


def test_a_plain_line_is_taken(
    before_model_work: None, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refusing everything would pass the test above."""
    path = tmp_path / "rows.jsonl"
    path.write_text(inputs.FORMATS["lines"](ROWS))
    monkeypatch.chdir(tmp_path)
    line = ["optimize", "--model", str(model_folder), "--train", str(path), "--num-train=4"]
    assert check([*line, "--max-new-tokens=4"]) == 1
