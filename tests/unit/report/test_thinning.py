import random
from types import SimpleNamespace

import pytest

from greater_fast.report.thinning import every_kth, mean_seconds, turns


@pytest.mark.parametrize("number", [0, 1, 2, 399, 400, 401, 5000])
def test_of_too_many_every_kth_is_kept(number):
    kept = list(every_kth(range(number)))
    assert len(kept) == number if number <= 400 else 200 < len(kept) <= 400
    assert kept == sorted(set(kept))
    assert kept[:1] == list(range(number))[:1]


def test_a_line_of_steps_looks_the_same():
    """Each step has the value of the last point at or before it."""
    draw = random.Random(0)
    values, value = {}, 1.0
    for step in range(300):
        value -= draw.choice([0, 0, 0, 0.1])
        values[step] = value
    line = turns(values)
    assert len(line) < 150
    for step, value in values.items():
        assert line[max(at for at in line if at <= step)] == value
    assert max(line) == 299


@pytest.mark.parametrize("values", [{}, {3: 1.0}, {3: 1.0, 4: 1.0}])
def test_a_short_line_is_itself(values):
    assert turns(values) == values


def test_bars_of_a_long_run_are_means_of_steps_beside_each_other():
    steps = [SimpleNamespace(seconds={"a": float(n), "b": 2.0}) for n in range(241)]
    size, (a, b, none) = mean_seconds(steps, ["a", "b", "c"])
    assert size == 3
    assert len(a) == 81
    assert a[:2] == [1.0, 4.0]
    assert a[-1] == 240.0
    assert set(b) == {2.0}
    assert set(none) == {0.0}
    assert mean_seconds(steps[:2], ["a"]) == (1, [[0.0, 1.0]])
