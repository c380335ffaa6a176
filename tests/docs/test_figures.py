"""The figures of the search's effect are what the command draws from the results."""

from pathlib import Path

import pytest

from benchmarks.evidence import effect
from tests.docs.pages import ROOT

RESULTS, FIGURES = ROOT / "benchmarks" / "results" / "effect", ROOT / "docs" / "figures"


def test_the_figures_are_of_the_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    effect.main(["--out", str(RESULTS), "--minutes", "0", "--plots", str(tmp_path)])
    drawn = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kinds = {name.split("-")[0] for name in drawn}
    assert kinds == {"effect", "gain"}
    shown = {path.name: path.read_bytes() for kind in kinds for path in FIGURES.glob(f"{kind}-*")}
    assert drawn.keys() == shown.keys()
    assert drawn == shown, (
        "run: python -m benchmarks.evidence.effect, as docs/evidence/effect.md says"
    )


def test_pages_show_figures_that_are_there() -> None:
    readme, evidence = (ROOT / name for name in ("README.md", "docs/evidence/effect.md"))
    names = {path.name for path in FIGURES.glob("gain-*")}
    assert any(f"(docs/figures/{name})" in readme.read_text(encoding="utf-8") for name in names)
    assert all(f"(../figures/{name})" in evidence.read_text(encoding="utf-8") for name in names)
