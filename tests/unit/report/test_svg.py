import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from greater_fast.report.figures import course, seconds
from greater_fast.report.run_view import read_run_view
from greater_fast.report.svg import inline_svg
from tests.unit.report.made_up import write_run


def tick_labels(svg: str, letters: str = r"[−\d.]+") -> list[str]:
    return re.findall(rf">\s*({letters})\s*</text>", svg)


@pytest.mark.parametrize("around", [(0.4601, 0.4649), (0.46001, 0.46049), (-0.0004, 0.0003)])
def test_tick_labels_of_a_narrow_range_keep_their_digits(around):
    svg = inline_svg("a", "a", lambda axes: (axes.plot([0, 1], around), axes.set_xticks([])))
    labels = tick_labels(svg)
    assert len(labels) == len(set(labels)) > 3
    assert all(float(one.replace("−", "-")) == pytest.approx(around[0], abs=0.02) for one in labels)


def test_places_inside_tags_are_hundredths_of_a_point():
    svg = inline_svg("a", "a", lambda axes: axes.plot([0, 1], [0.4601, 0.4649]))
    tags = "".join(re.findall(r"<[^>]*>", svg.partition(">")[2]))
    assert re.search(r"\d\.\d\d\b", tags)
    assert not re.search(r"\d\.\d{3}", tags)


def test_figures_made_at_once_are_those_made_one_by_one():
    """matplotlib's settings are the process's own; a figure must not have another one's."""

    def figure(number: int) -> str:
        return inline_svg(f"name {number}", "a", lambda axes: axes.plot(range(number + 2)))

    one_by_one = [figure(number % 3) for number in range(24)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(figure, [n % 3 for n in range(24)])) == one_by_one


@pytest.mark.parametrize("num_steps", [1, 2, 9])
def test_steps_are_counted_in_whole_numbers(tmp_path, num_steps):
    view = read_run_view(write_run(tmp_path / "run", num_steps=num_steps), 0)
    for svg in (course([view], "objective"), seconds(view)):
        labels = tick_labels(re.split(r">\s*step\s*<", svg)[0])
        assert labels
        assert all(label.isdigit() for label in labels), labels
