"""The pages of the evidence show what is stored, as their commands print it."""

import json
from pathlib import Path

import pytest

from benchmarks.evidence import effect, signals
from benchmarks.evidence.chains import load_chains
from benchmarks.evidence.policies.report import tables

ROOT = Path(__file__).parents[3]
DOCS, RESULTS = ROOT / "docs/evidence", ROOT / "benchmarks/results"


def missing(page: str, printed: str) -> list[str]:
    """Lines of a table that a page has not; those without any value may be left out."""
    shown = (DOCS / page).read_text(encoding="utf-8").splitlines()
    lines = [line for line in printed.splitlines() if line and not line.startswith("## ")]
    return [line for line in lines if line not in shown and "| – | – | – | – |" not in line]


def test_signals():
    models = signals.of_models(load_chains(RESULTS / "signals"), is_confirming=False)
    assert len(models) == 2
    assert missing("signals.md", signals.report(models)) == []


def test_policies():
    found = json.loads((RESULTS / "policies.json").read_text())
    assert len(found) == 2
    for of_model in found.values():
        assert missing("policies.md", tables(of_model)) == []


def test_effect(capsys: pytest.CaptureFixture[str]):
    effect.main(["--minutes", "0", "--out", str(RESULTS / "effect")])
    assert missing("effect.md", capsys.readouterr().out) == []


def test_figures_are_there():
    for page in DOCS.glob("*.md"):
        for part in page.read_text(encoding="utf-8").split("](../figures/")[1:]:
            assert (ROOT / "docs/figures" / part.split(")")[0]).is_file(), page
