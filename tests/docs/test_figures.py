"""The figures of the evidence are what the commands draw from the stored results."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.evidence import effect, racing, signals
from benchmarks.evidence.chains import load_chains
from benchmarks.evidence.policies import figures
from tests.docs.pages import ROOT

RESULTS, FIGURES = ROOT / "benchmarks" / "results", ROOT / "docs" / "figures"


def draw_effect(folder: Path) -> None:
    effect.main(["--out", str(RESULTS / "effect"), "--minutes", "0", "--plots", str(folder)])


def draw_signals(folder: Path) -> None:
    chains = load_chains(RESULTS / "signals")
    signals.draw(signals.of_models(chains, is_confirming=False), folder)


def draw_policies(folder: Path) -> None:
    figures.draw(folder, json.loads((RESULTS / "policies.json").read_text()))


def draw_racing(folder: Path) -> None:
    racing.draw(json.loads((RESULTS / "racing.json").read_text()), folder)


DRAWN = {
    ("effect-", "gain-"): draw_effect,
    ("signals-",): draw_signals,
    ("policies",): draw_policies,
    ("racing",): draw_racing,
}


@pytest.mark.parametrize(
    ("kinds", "draw"), DRAWN.items(), ids=["effect", "signals", "policies", "racing"]
)
def test_the_figures_are_of_the_results(
    kinds: tuple[str, ...], draw: Callable[[Path], None], tmp_path: Path
) -> None:
    draw(tmp_path)
    drawn = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {kind for kind in kinds for name in drawn if name.startswith(kind)} == {*kinds}
    shown = {path.name: path.read_bytes() for kind in kinds for path in FIGURES.glob(f"{kind}*")}
    assert drawn.keys() == shown.keys()
    stale = [name for name in drawn if drawn[name] != shown[name]]
    assert not stale, "draw them anew, as the pages in docs/evidence say"


def test_every_figure_is_drawn_by_a_command() -> None:
    known = tuple(kind for kinds in DRAWN for kind in kinds)
    assert [path.name for path in FIGURES.iterdir() if not path.name.startswith(known)] == []


def test_pages_show_figures_that_are_there() -> None:
    readme, evidence = (ROOT / name for name in ("README.md", "docs/evidence/effect.md"))
    names = {path.name for path in FIGURES.glob("gain-*")}
    assert any(f"(docs/figures/{name})" in readme.read_text(encoding="utf-8") for name in names)
    assert all(f"(../figures/{name})" in evidence.read_text(encoding="utf-8") for name in names)
