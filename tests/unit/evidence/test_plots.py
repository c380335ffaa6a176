import math
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from benchmarks.evidence.plots import Estimate, Line, forest_plot, line_plot

ESTIMATES = [
    Estimate("ours − initial", 3.0, -1.0, 7.0, "counting"),
    Estimate("ours − initial", 5.0, 4.0, 6.0, "all tasks"),
    Estimate("ours − random", -2.0, -4.5, 0.5, "counting"),
]
LINES = [
    Line("ours", [0, 1, 2], [0.4, 0.5, 0.55], [0.35, 0.45, 0.5], [0.45, 0.55, 0.6]),
    Line("random", [0, 2], [0.4, 0.45], [0.3, 0.4], [0.5, 0.5]),
]


def forest(path, estimates=ESTIMATES):
    forest_plot(path, estimates, title="What was gained", x_label="points")


def lines(path, given=LINES):
    line_plot(path, given, title="By tokens", x_label="tokens", y_label="accuracy")


def texts(path):
    found = ET.parse(path).getroot().iter("{http://www.w3.org/2000/svg}text")
    return ["".join(element.itertext()) for element in found]


@pytest.mark.parametrize(
    ("draw", "wanted"),
    [
        (forest, {"ours − initial", "ours − random", "counting", "all tasks", "points"}),
        (lines, {"ours", "random", "tokens", "accuracy", "By tokens"}),
    ],
)
def test_figures_are_small_svgs_with_their_names_the_same_each_time(draw, wanted, tmp_path):
    path = tmp_path / "docs" / "figure.svg"
    draw(path)
    assert wanted <= set(texts(path))
    assert path.stat().st_size < 60_000
    content = path.read_bytes()
    draw(path)
    assert path.read_bytes() == content


def test_rows_stand_in_the_order_given_and_a_name_once(tmp_path):
    forest(tmp_path / "figure.svg")
    names = [text for text in texts(tmp_path / "figure.svg") if text.startswith("ours")]
    assert names == ["ours − initial", "ours − random"]


def test_one_series_without_a_name_needs_no_legend(tmp_path):
    forest(tmp_path / "figure.svg", [Estimate("a", 1.0, 0.5, 1.5)])
    assert "a" in texts(tmp_path / "figure.svg")


def test_an_open_end_leaves_the_plot_and_widens_nothing(tmp_path):
    closed, opened = [Estimate("a", 1.0, 0.5, 1.5)], [Estimate("b", 1.0, 0.9, math.inf)]
    forest(tmp_path / "closed.svg", closed)
    forest(tmp_path / "open.svg", closed + opened)
    ticks = [{t for t in texts(tmp_path / f) if t[0].isdigit()} for f in ("closed.svg", "open.svg")]
    assert max(map(float, ticks[1])) <= 1.6
    assert ticks[1]
    assert "b" in texts(tmp_path / "open.svg")


@pytest.mark.parametrize("draw", [forest, lines])
def test_other_formats_go_by_the_ending(draw, tmp_path):
    draw(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("draw", [forest, lines])
def test_nothing_to_draw_is_refused(draw, tmp_path):
    with pytest.raises(ValueError, match="expected one at least"):
        draw(tmp_path / "figure.svg", [])


def test_matplotlib_is_not_needed_to_measure():
    program = "import sys; import benchmarks.evidence.effect; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
