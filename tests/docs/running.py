"""The code of a page, run."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from greater_fast.examples.data import load_examples
from tests.docs.pages import ALL_BLOCKS, Block


def of_page(page: str) -> list[Block]:
    return [block for block in ALL_BLOCKS if block.page == page and not block.not_run]


def run_python(
    page: str, place: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Blocks of a page run in order, each seeing the names before; comments say what is printed."""
    add_files_shown(page, place)
    names: dict[str, Any] = {
        "__name__": page,
        "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "rows": load_examples("train.jsonl"),
    }
    for block in of_page(page):
        if block.kind != "python":
            continue
        made = set(re.findall(r'run_dir="(runs/[\w-]+)"', block.text))
        add_runs(set(re.findall(r'"(runs/[\w-]+)"', block.text)) - made, finished_run)
        capsys.readouterr()
        exec(compile(block.text, str(block), "exec"), names)
        expected = re.findall(r"# prints: (.*)", block.text)
        if expected:
            told = capsys.readouterr().out.splitlines()
            assert [line for line in expected if line not in told] == [], told


def add_runs(names: set[str], finished_run: Path) -> None:
    """Runs that are named, and not there yet."""
    for name in names:
        if not Path(name).exists():
            shutil.copytree(finished_run, name)


def add_files_shown(page: str, place: Path) -> None:
    """Data that a page shows, as the files that its code reads."""
    for block in of_page(page):
        if block.kind in ("csv", "jsonl"):
            path = place / f"other.{block.kind}"
            path.write_text(block.text + "\n", encoding="utf-8")
            assert len(load_examples(path, _columns(block))) == len(block.text.splitlines()) - (
                block.kind == "csv"
            )


def _columns(block: Block) -> dict[str, str] | None:
    if block.kind == "jsonl":
        return None
    return dict(zip(("question", "answer"), block.text.splitlines()[0].split(","), strict=True))
