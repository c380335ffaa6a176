"""Every block of code in README and docs runs, or is at least what its program understands."""

import argparse
import importlib.util
import re
import runpy
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from greater_fast.cli import main as cli
from greater_fast.cli.commands import parser
from tests.docs.pages import ALL_BLOCKS, COMMANDS, FRONT_ENDS, ROOT, SHELL, SHOWN, Block
from tests.docs.running import add_files_shown, add_runs, of_page, run_python

PAGES = dict.fromkeys(block.page for block in ALL_BLOCKS if block.kind == "python")
PYTHON = [page for page in PAGES if not page.startswith(FRONT_ENDS)]  # those: tests/front_ends
COMMAND_LINES = list(dict.fromkeys(block.page for block in ALL_BLOCKS if block.commands))
NOT_RUN = {str(block): block.not_run for block in ALL_BLOCKS if block.not_run}
NUM_NOT_RUN = 1  # blocks that say why they are not run; one more is to be meant
SERVES = {"ui"}  # commands that do not end by themselves: they are parsed alone
ASKS_A_SERVER = "--endpoint"  # so are those that want one


def test_there_are_blocks_of_all_kinds() -> None:
    kinds = {block.kind for block in ALL_BLOCKS}
    assert {"", "python", "sh", *SHOWN} <= kinds <= {"", "python", *SHELL, *SHOWN}
    assert len(PYTHON) >= 6
    assert len(COMMAND_LINES) >= 10


def test_what_is_not_run_says_why() -> None:
    listed = "\n".join(f"{where}: {why}" for where, why in NOT_RUN.items())
    assert len(NOT_RUN) == NUM_NOT_RUN, listed


@pytest.mark.parametrize("block", [b for b in ALL_BLOCKS if b.kind in ("", "text")], ids=str)
def test_what_is_shown_is_no_code(block: Block) -> None:
    """Code that is not fenced as such, or between lines that are no commands, would not be run."""
    if block.commands:
        assert all(words[0] in COMMANDS for words in block.commands), block.text
        return
    first_words = {line.split()[0] for line in block.text.splitlines() if line.strip()}
    assert not first_words & {"import", "from", "print", "greater-fast", "torchrun"}, block.text


@pytest.mark.parametrize("page", PYTHON)
def test_python(
    page: str, place: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_python(page, place, finished_run, capsys)


@pytest.mark.parametrize("block", [b for b in ALL_BLOCKS if b.kind == "python"], ids=str)
def test_python_is_written_as_ours_is(block: Block) -> None:
    assert max(map(len, block.text.splitlines())) <= 100


@pytest.mark.parametrize("page", COMMAND_LINES)
def test_shell(
    page: str,
    place: Path,
    finished_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Commands of a page run in order; of what it does not make itself there is a finished run."""
    add_files_shown(page, place)
    for words in [words for block in of_page(page) for words in block.commands]:
        CHECKS[words[0]](words[1:], monkeypatch)
        if words[0] == "greater-fast" and not ({words[1]} & SERVES or ASKS_A_SERVER in words):
            if words[1] == "optimize":  # which makes a run, and may have been shown before
                shutil.rmtree(place / "runs", ignore_errors=True)
            else:
                add_runs(
                    {word for word in words if re.fullmatch(r"runs/[\w-]+", word)}, finished_run
                )
            status = cli.main(words[1:])
            assert status == 0, (words, capsys.readouterr().err)


def check_greater_fast(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parser().parse_args(words)


def check_torchrun(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.run import get_args_parser

    asked = get_args_parser().parse_args(words)
    assert asked.module
    assert asked.training_script == "greater_fast"
    check_greater_fast(asked.training_script_args, monkeypatch)


class ParsedError(Exception):
    """A program has understood its arguments: it need not run."""


def check_python(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m MODULE ARGUMENTS`: as far as the module's own parser."""
    assert words[0] == "-m", words
    assert importlib.util.find_spec(words[1]) is not None
    parse = argparse.ArgumentParser.parse_args

    def parsed(*arguments: Any, **options: Any) -> None:
        parse(*arguments, **options)
        raise ParsedError

    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", words[1:])
        patch.setattr(argparse.ArgumentParser, "parse_args", parsed)
        with pytest.raises(ParsedError):
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)


def check_make(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (targets,) = re.findall(r"^\.PHONY: (help .*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {word for word in words if "=" not in word} <= set(targets.split())


def check_pip(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known = (ROOT / "constraints.txt").read_text()
    assert words[0] == "install"
    for word in words[1:]:
        if extras := re.fullmatch(r"(?:\.|greater-fast)(?:\[(.+)\])?", word):
            asked = set((extras[1] or "").split(",")) - {""}
            assert asked <= set(project["optional-dependencies"])
        elif not word.startswith("-"):
            assert (ROOT / word).is_file() or f"\n{word}==" in known, word


def check_bash(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert (ROOT / words[0]).is_file()
    options = set(re.findall(r"--[a-z-]+", (ROOT / words[0]).read_text()))
    assert {word for word in words[1:] if word.startswith("--")} <= options


def check_nothing(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of somebody else, which does not end by itself."""


CHECKS = {
    "greater-fast": check_greater_fast,
    "torchrun": check_torchrun,
    "python": check_python,
    "make": check_make,
    "pip": check_pip,
    "bash": check_bash,
    "ssh": check_nothing,
    "tensorboard": check_nothing,
}
