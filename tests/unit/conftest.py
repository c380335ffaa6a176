"""What the tests of the command line share, and those of the CPU kernels."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from greater_fast._core import limit_vectors
from greater_fast.cli import main as cli
from tests.tiny import PROMPT


class Outcome(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def values(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the command line."""

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        status = cli.main([str(argument) for argument in arguments])
        return Outcome(status, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]]) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def limits(settings: dict[str, Any]) -> list[str]:
    """The settings of a fast search, as options."""
    named = {name.replace("_", "-"): value for name, value in settings.items()}
    return [part for name, value in named.items() for part in (f"--{name}", str(value))]


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path, data: Path, limits: list[str]
) -> Path:
    """The directory of a finished run."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    arguments = ["--model", model_folder, "--train", data, "--prompt", PROMPT, "--run-dir", run]
    assert cli.main(["optimize", *map(str, arguments), *limits]) == 0
    return run


@pytest.fixture
def unfinished(finished: Path, tmp_path: Path) -> Path:
    """The same run, killed before its end."""
    run = tmp_path / "unfinished"
    shutil.copytree(finished, run)
    (run / "result.json").unlink()
    return run


@pytest.fixture(params=[16, 32, 64], ids=lambda size: f"{size}-byte-vectors")
def every_vector_size(request: pytest.FixtureRequest) -> Iterator[None]:
    """The CPU kernels on each instruction set that the machine has, up to this width."""
    limit_vectors(request.param)
    yield
    limit_vectors(64)
