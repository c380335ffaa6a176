"""The pages on GPUs say what the plan says."""

from pathlib import Path

from benchmarks.gpu.cards import table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "gpu.md"


def test_the_table_of_cards_is_the_plans() -> None:
    text = PAGE.read_text(encoding="utf-8")
    shown = text.partition("<!-- cards -->\n")[2].partition("\n<!-- /cards -->")[0]
    assert shown == table()
