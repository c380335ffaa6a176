"""The simulated rules bet as their docstrings say, and the chosen one takes fewest rows."""

import itertools
import json
import math
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from benchmarks.evidence import racing
from greater_fast.search.racing import BET, Course, Race

ROOT = Path(__file__).resolve().parents[3]
NUM_ROWS = 10
EVERY = np.array(list(itertools.product([False, True], repeat=NUM_ROWS)))  # what is lost
E_PROCESSES = [name for name in racing.RULES if name != "repeated t-test"]


def stops(rule, lost, alpha):
    """Whether each of these candidates is dropped at some time; they differ on every row."""
    return racing.RULES[rule](lost, ~lost, alpha).any(1)


@pytest.mark.parametrize("rule", E_PROCESSES)
@pytest.mark.parametrize("alpha", [0.5, 0.2, 0.05])
def test_every_bet_keeps_its_level(rule, alpha):
    """Of all sequences of rows, each as probable as any other."""
    assert stops(rule, EVERY, alpha).mean() <= alpha
    assert stops(rule, np.ones((1, 100), bool), alpha).all()


def test_a_repeated_t_test_does_not():
    assert (
        stops("repeated t-test", np.random.default_rng(0).random((2000, 200)) < 0.5, 0.05).mean()
        > 0.1
    )


def test_what_is_chosen_is_what_the_search_does():
    assert racing.RULES[racing.CHOSEN](EVERY, ~EVERY, 0.1).any()
    source = np.random.default_rng(1)
    wrong, incumbent = (source.random((60, 40)) < error for error in (0.6, 0.3))
    found = racing.first(racing.RULES[racing.CHOSEN](wrong, incumbent, 0.1))
    happens = racing.RULES[racing.CHOSEN](wrong, incumbent, 0.1).any(1)
    for candidate, rival, rows, is_dropped in zip(wrong, incumbent, found, happens, strict=True):
        race = Race(Course(tuple(range(40)), tuple(map(bool, rival)), 0.1))
        taken = 0
        while taken < 40 and not race.is_lost:
            race.bet(taken, bool(candidate[taken]))
            taken += 1
        assert (taken, race.is_lost) == (rows, is_dropped)
    assert 0 < happens.sum() < 60
    assert f"bet {Fraction(BET)}" == racing.CHOSEN


def test_the_mixture_is_the_mean_of_all_bets():
    table = racing.mixed_wealth(9)
    bets = (np.arange(20_000) + 0.5) / 20_000
    for lost, won in itertools.product(range(10), repeat=2):
        mean = ((1 + bets) ** lost * (1 - bets) ** won).mean()
        assert math.exp(table[lost, won]) == pytest.approx(mean, rel=1e-5)


def test_the_estimated_bet_row_by_row():
    for lost in EVERY[::17]:
        wealth, counted = 1.0, [0, 0]
        happens = []
        for is_lost in lost:
            bet = max(counted[1] - counted[0], 0) / (sum(counted) + 1)
            wealth *= 1 + bet if is_lost else 1 - bet
            counted[int(is_lost)] += 1
            happens.append(wealth >= 2)
        assert racing.estimated(lost[None], ~lost[None], 0.5)[0].tolist() == happens


@pytest.mark.parametrize(
    ("df", "value"), [(9, 1.833113), (29, 1.699127), (199, 1.652547)]
)  # tables of Student's t
def test_the_quantile_of_student(df, value):
    assert racing.t_quantile(0.95, df) == pytest.approx(value, abs=2e-4)


def test_prompts_differ_as_the_settings_say():
    source = np.random.default_rng(2)
    wrong, incumbent = racing.outcomes(4000, 50, 0.2, 1, source)
    assert wrong.mean() == pytest.approx(0.6, abs=0.01)
    assert incumbent.mean() == pytest.approx(0.4, abs=0.01)
    _, selected = racing.outcomes(4000, 50, 0.2, 16, source)
    assert selected.mean() < 0.32


def test_the_command(tmp_path, monkeypatch, capsys):
    out = tmp_path / "found.json"
    given = ["racing", "--runs", "40", "--out", str(out), "--plots", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", given)
    monkeypatch.setattr(racing, "NUM_ROWS", (24, 50))
    racing.main()
    assert racing.tables(json.loads(out.read_text())) == capsys.readouterr().out
    assert (tmp_path / "racing.svg").stat().st_size < 40_000


def test_what_a_race_spares_is_counted_in_rows():
    """Over several gaps the rows of all candidates with the race, over all those by the bound."""
    cells = [{"rows": 0.6, "rows_by_bound": 0.8}, {"rows": 0.0, "rows_by_bound": 0.2}]
    assert racing._ratio(cells[:1]) == "0.75"
    assert racing._ratio(cells) == "0.60"


def test_the_chosen_bet_takes_fewest_rows():
    found = json.loads((ROOT / "benchmarks/results/racing.json").read_text())
    rows = racing.mean_worse(found, "rows")
    assert min(E_PROCESSES, key=rows.__getitem__) == racing.CHOSEN
