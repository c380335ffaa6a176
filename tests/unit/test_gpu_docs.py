"""The pages on GPUs say what the plan says."""

import re
from pathlib import Path

import pytest

from benchmarks.gpu import paper
from benchmarks.gpu.cards import table

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "gpu.md"


def test_the_table_of_cards_is_the_plans() -> None:
    text = PAGE.read_text(encoding="utf-8")
    shown = text.partition("<!-- cards -->\n")[2].partition("\n<!-- /cards -->")[0]
    assert shown == table()


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ([], "With 256 tokens the same estimate is {} s a step"),
        (["--new-tokens", "512"], "| a task of BBH, 50 rows | {} s |"),
        (["--new-tokens", "512", "--rows", "100"], "| GSM8K, 100 rows | {} s |"),
    ],
    ids=" ".join,
)
def test_the_steps_of_the_papers_table_are_the_estimates(arguments, shown, capsys) -> None:
    paper.main(arguments)
    h100 = re.findall(r"sum +([\d.]+) s$", capsys.readouterr().out, re.MULTILINE)[0]
    text = " ".join((DOCS / "evidence/paper.md").read_text(encoding="utf-8").split())
    assert shown.format(f"{float(h100):.1f}") in text
