"""Races: the level by counting out every course of events, and drops that timing cannot move."""

import itertools
import math
import random
import threading
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from greater_fast.config import Config
from greater_fast.engine import Engine, Rollout
from greater_fast.ranks import ALONE
from greater_fast.rollouts.distributed import DistributedEngine
from greater_fast.search.nouns import TIE, Objective, Scored
from greater_fast.search.racing import BET, Course, Race, draw_course
from greater_fast.search.selection import Selection, select
from greater_fast.search.state import LoopState
from tests.cases import FakeEngine, as_engine, made_up, table_layouts
from tests.threads import on_threads
from tests.unit.search.test_selection import POSITION, PROMPT, ShuffledEngine, Table

HALF = Fraction(1, 2)
ALPHAS = pytest.mark.parametrize("alpha", [0.5, 0.3, 0.1, 0.05, 0.01])


def rows(*misses: int) -> tuple[Rollout, ...]:
    """Rollouts that miss (1) or hit."""
    return tuple(made_up(bool(miss)) for miss in misses)


def scored(rollouts: tuple[Rollout, ...]) -> Scored:
    wrong = sum(r.is_wrong for r in rollouts)
    return Scored(PROMPT, Objective(wrong, len(rollouts), 1.0, 1.0), rollouts)


def error(rollout: Rollout) -> Fraction:
    """What a row counts: 1 less what its answer was measured to be worth, else 0 or 1."""
    return Fraction(rollout.is_wrong if rollout.metric is None else 1 - rollout.metric)


def is_lost(misses: tuple[int, ...], alpha: float) -> bool:
    """Whether a candidate that differs on every row is dropped at some time."""
    order = tuple(range(len(misses)))
    race = Race(Course(order, tuple(not miss for miss in misses), alpha))
    for row, miss in enumerate(misses):
        race.bet(row, bool(miss))
        if race.is_lost:
            return True
    return False


def drops(num_lost: int, num_won: int, alpha: float) -> bool:
    """The rule, in whole numbers."""
    return Fraction(7, 4) ** num_lost * Fraction(1, 4) ** num_won * Fraction(alpha) >= 1


def most_probable(num_rows: int, alpha: float, favours: tuple[Fraction, ...]) -> float:
    """The highest probability of a drop within so many rows that differ.

    Whoever draws the rows may choose, at each, with which of these probabilities it favours the
    candidate, and knows all rows before: what is best is found from the last row back.
    """
    after = {(lost, num_rows - lost): Fraction(0) for lost in range(num_rows + 1)}
    for count in reversed(range(num_rows)):
        now = {}
        for lost in range(count + 1):
            won = count - lost
            worse, better = (
                Fraction(1) if drops(*counts, alpha) else after[counts]
                for counts in ((lost + 1, won), (lost, won + 1))
            )
            now[lost, won] = max(p * better + (1 - p) * worse for p in favours)
        after = now
    return float(after[0, 0])


@ALPHAS
def test_the_level_holds_for_every_null_hypothesis(alpha: float) -> None:
    for p in (HALF, Fraction(6, 10), Fraction(9, 10), Fraction(1)):
        assert most_probable(60, alpha, (p,)) <= alpha
    adaptive = most_probable(60, alpha, (HALF, Fraction(3, 4), Fraction(1)))
    assert most_probable(60, alpha, (HALF,)) <= adaptive <= alpha
    assert adaptive > alpha / 4  # not for want of drops


@ALPHAS
def test_the_race_drops_by_that_rule_and_at_that_level(alpha: float) -> None:
    """Every sequence of 12 rows that differ, each as probable as any other."""
    num_rows = 12
    num_lost = 0
    for misses in itertools.product((0, 1), repeat=num_rows):
        counts = [(sum(misses[:n]), n - sum(misses[:n])) for n in range(1, num_rows + 1)]
        lost = is_lost(misses, alpha)
        assert lost == any(drops(*count, alpha) for count in counts)
        num_lost += lost
    assert num_lost / 2**num_rows == most_probable(num_rows, alpha, (HALF,)) <= alpha


def test_rows_alike_bet_nothing() -> None:
    race = Race(Course((0, 1, 2, 3), (True, False, True, False), 0.5))
    for row, is_missed in enumerate((True, False, True, False)):
        race.bet(row, is_missed)
        assert not race.is_lost
    race = Race(Course((0, 1), (False, False), 0.5))
    race.bet(0, True)
    assert not race.is_lost
    race.bet(1, True)
    assert race.is_lost


@pytest.mark.parametrize("alpha", [0.5, 0.3])
def test_rows_that_differ_in_part_keep_the_level(alpha: float) -> None:
    """Every sequence of 6 differences that are 0 on average, each as probable as any other."""
    errors, num_rows, num_lost = (0.0, 0.25, 0.75, 1.0), 6, 0
    for drawn in itertools.product(errors, repeat=num_rows):
        race, wealth, was_lost = Race(Course(tuple(range(6)), (0.5,) * 6, alpha)), 1.0, False
        for row, error in enumerate(drawn):
            race.bet(row, error)
            wealth += wealth * BET * (error - 0.5)
            assert race.is_lost is (wealth * alpha >= 1)
            was_lost |= race.is_lost
        num_lost += was_lost
    assert 0 < num_lost / len(errors) ** num_rows <= alpha


def test_what_a_metric_gives_is_raced() -> None:
    graded = tuple(Rollout((), metric=value) for value in (0.75, 0.25))
    course = draw_course(scored(graded), 3, Config(race=0.1))
    assert course
    assert course.errors == (0.25, 0.75)


def test_a_course_is_drawn_for_each_step_and_seed() -> None:
    incumbent = scored(rows(*[0, 1, 1] * 7))
    assert draw_course(incumbent, 3, Config()) is None
    course = draw_course(incumbent, 3, Config(race=0.1))
    assert course
    assert sorted(course.order) == list(range(21))
    assert course.errors == (0, 1, 1) * 7
    assert course.alpha == 0.1
    assert course == draw_course(incumbent, 3, Config(race=0.1))
    orders = {course.order}
    for step, seed in ((4, 0), (3, 1)):
        other = draw_course(incumbent, step, Config(race=0.1, seed=seed))
        assert other
        orders.add(other.order)
    assert len(orders) == 3


@given(st.permutations(range(7)), st.permutations(range(7)))
def test_rows_take_their_turn(order: list[int], ends: list[int]) -> None:
    race = Race(Course(tuple(order), (False,) * 7, 0.1))
    rollouts = [made_up(False, nll=float(row)) for row in range(7)]
    taken: list[int] = []
    for number, row in enumerate(ends, 1):
        for place, rollout in race.in_turn(row, rollouts[row]):
            assert rollout is rollouts[place]
            taken.append(place)
        ended = set(ends[:number])
        assert taken == list(itertools.takewhile(ended.__contains__, order))


class Steps:
    """Selections at one place, one after the other, with a race."""

    def __init__(self, table: Table, alpha: float) -> None:
        self.table, self.config = table, Config(race=alpha)
        self.layouts = table_layouts(len(table[2]))

    def select(self, orders: list[list[int]], engine: Any) -> tuple[list[Selection], LoopState]:
        """What each shortlist comes to, and the state behind."""
        incumbent = tuple(self.table[2])
        wrong, num = float(sum(map(error, incumbent))), len(incumbent)
        nll = math.fsum(r.prompt_nll for r in incumbent) / num
        state = LoopState(Scored(PROMPT, Objective(wrong, num, nll, 1.0), incumbent))
        found = []
        for order in orders:
            shortlist = dict.fromkeys(order, 0.0)
            found.append(select(engine, self.layouts, shortlist, POSITION, state, self.config))
            state.incumbent = found[-1].winner
        return found, state

    def engine(self) -> FakeEngine:
        """Answers from the table."""
        return FakeEngine(lambda ids, row: self.table[ids[1]][row])

    def expected(self, token: int) -> float | int | None:
        """What a token comes to against the first incumbent, row by row, in so many words.

        Its error rate, the rows that it was dropped after, or None where it was given up.
        """
        own, incumbent, num = self.table[token], self.table[2], len(self.table[2])
        bound = sum(error(r) + r.prompt_nll / 50 for r in incumbent) / num
        order = random.Random("0/race/4").sample(range(num), num)
        partial, wealth = 0.0, Fraction(1)
        for count, row in enumerate(order, 1):
            partial += (error(own[row]) + own[row].prompt_nll / 50) / num
            if partial > bound + TIE:
                return None
            wealth *= 1 + Fraction(3, 4) * (error(own[row]) - error(incumbent[row]))
            if wealth * Fraction(self.config.race) >= 1 and count < num:
                return count
        return float(sum(map(error, own)) / num)


@st.composite
def races(draw: st.DrawFn) -> Steps:
    num_rows, nlls = draw(st.integers(1, 16)), st.sampled_from([0.5, 1.0, 1.25])
    rollouts = st.builds(made_up, wrong=st.booleans(), nll=nlls)
    if draw(st.booleans()):  # answers are measured, in numbers that floats add up exactly
        worth = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
        rollouts = st.builds(Rollout, st.just((7,)), prompt_nll=nlls, metric=worth)
    several = st.lists(rollouts, min_size=num_rows, max_size=num_rows)
    return Steps(
        {token: draw(several) for token in (2, 5, 8, 9)}, draw(st.sampled_from([0.5, 0.3, 0.1]))
    )


@given(races())
@settings(max_examples=300, deadline=None)
def test_what_comes_of_a_race(race: Steps) -> None:
    (found,), state = race.select([[5, 8, 9]], as_engine(race.engine()))
    for token, result in zip((5, 8, 9), found.scored, strict=True):
        expected = race.expected(token)
        prompt_ids = POSITION.with_token(token)
        is_measured = race.table[token][0].metric is not None
        event(f"{type(expected).__name__}, {'measured' if is_measured else 'right or wrong'}")
        assert (prompt_ids in state.given_up) is (expected is None)
        if isinstance(expected, float):
            assert result is state.scored[prompt_ids]
            assert result.objective.error_rate == expected
            assert result.rollouts == tuple(race.table[token])
        else:
            assert result is None
            assert prompt_ids not in state.scored
        if isinstance(expected, int):
            assert found.dropped[token] == state.dropped[prompt_ids] == expected
        else:
            assert token not in found.dropped
            assert prompt_ids not in state.dropped


@given(races(), st.randoms(use_true_random=False), st.data())
@settings(max_examples=120, deadline=None)
def test_drops_do_not_depend_on_the_order_in_which_rows_end(
    race: Steps, source: random.Random, data: st.DataObject
) -> None:
    orders = [data.draw(st.permutations([5, 8, 9])) for _ in range(2)]
    orders[0] = orders[0][: data.draw(st.integers(0, 3))]
    expected = race.select(orders, as_engine(race.engine()))
    for _ in range(3):
        shuffled = ShuffledEngine(race.engine().rollout, source=source)
        assert race.select(orders, as_engine(shuffled)) == expected


@given(races(), st.integers(2, 4), st.integers(1, 3), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_drops_are_those_of_one_process_on_every_rank(
    race: Steps, size: int, rows_together: int, batch_size: int
) -> None:
    def fake() -> FakeEngine:
        lm = FakeEngine(race.engine().rollout).lm
        lm.lock, lm.ranks = threading.RLock(), ALONE
        engine = FakeEngine(race.engine().rollout, batch_size, lm=lm)
        engine.num_forward_tokens = 0  # type: ignore[attr-defined]
        return engine

    def over(ranks: Any) -> Engine:
        return DistributedEngine(as_engine(fake()), ranks, rows_together)

    orders = [[5, 8], [9, 8, 5]]
    expected = race.select(orders, as_engine(fake()))
    assert on_threads(size, lambda ranks: race.select(orders, over(ranks))) == [expected] * size


ORDER = random.Random("0/race/4").sample(range(40), 40)


def falling_behind() -> Steps:
    """All miss 30 of 40 rows; of the others token 5 misses all, token 9 one, token 8 none."""
    hits, missed = [made_up(False)] * 10, [made_up(True)] * 30
    table = {2: [*hits, *missed], 8: [*hits, made_up(False), *missed[1:]]}
    return Steps({**table, 9: [made_up(True), *hits[1:], *missed], 5: [made_up(True)] * 40}, 0.1)


def num_rows_of_5() -> int:
    """After the fifth row that it alone misses: 1.75^5 is over 10."""
    return [place for place, row in enumerate(ORDER, 1) if row < 10][4]


def test_rows_run_across_candidates_and_none_of_a_candidate_that_was_dropped() -> None:
    race = falling_behind()
    engine = race.engine()
    engine.batch_size = 1
    (found,), state = race.select([[5, 8]], as_engine(engine))
    num_rows = num_rows_of_5()
    assert 5 < num_rows < 31  # before the bound shows it
    both = [(POSITION.with_token(token), row) for row in ORDER[:num_rows] for token in (5, 8)]
    assert engine.calls == [*both, *(((1, 8, 3), row) for row in ORDER[num_rows:])]
    assert found.dropped == {5: num_rows}
    assert state.dropped == {(1, 5, 3): num_rows}
    assert found.scored == (None, state.scored[1, 8, 3])


def test_a_prompt_that_is_lost_at_its_last_row_is_scored() -> None:
    """Fluency may outweigh its errors, and all of both is known by then."""
    order = random.Random("0/race/4").sample(range(6), 6)
    fluent = [made_up(row != order[0], nll=1.0) for row in range(6)]
    race = Steps({2: [made_up(False, nll=100.0)] * 6, 5: fluent}, 0.1)
    (found,), state = race.select([[5]], as_engine(race.engine()))
    assert drops(5, 0, 0.1)
    assert found.dropped == state.dropped == {}
    assert found.winner is state.scored[1, 5, 3]


def test_what_was_dropped_is_no_bound_and_not_raced_again() -> None:
    race = falling_behind()
    engine = race.engine()
    (first, second), state = race.select([[8, 5], [5]], as_engine(engine))
    assert second.winner is first.winner is state.scored[1, 8, 3]
    assert first.dropped == second.dropped == {5: num_rows_of_5()}
    assert state.given_up == {}
    assert len(engine.calls) == len(set(engine.calls))  # nothing twice


def test_without_a_race_it_is_tried_like_any_other() -> None:
    race = falling_behind()
    _, state = race.select([[5]], as_engine(race.engine()))
    assert list(state.dropped) == [(1, 5, 3)]
    found = select(
        as_engine(race.engine()), race.layouts, {5: 0.0}, POSITION, state, Config(race=0)
    )
    assert state.dropped == found.dropped == {}
    assert list(state.given_up) == [(1, 5, 3)]


@pytest.mark.parametrize("behind", [0, 1])
def test_a_row_behind_a_drop_is_not_looked_at(behind: int) -> None:
    """Whether it has run or not is a matter of timing."""
    race = falling_behind()
    broken = ORDER[num_rows_of_5() - 1 + behind]
    race.table[5][broken] = made_up(True, nll=math.nan)
    if behind:
        assert race.select([[5]], as_engine(race.engine()))[1].dropped
    else:
        with pytest.raises(FloatingPointError, match=f"example {broken} "):
            race.select([[5]], as_engine(race.engine()))


def test_a_row_behind_the_bound_is_not_looked_at() -> None:
    race = falling_behind()
    race.table[2] = [made_up(False)] * 40
    race.table[5] = [made_up(row == ORDER[8]) for row in range(40)]
    race.table[5][ORDER[9]] = made_up(True, nll=math.nan)
    assert race.select([[5]], as_engine(race.engine()))[1].given_up


def test_without_a_race_nothing_is_drawn_or_dropped() -> None:
    race = falling_behind()
    race.config = Config()
    engine = race.engine()
    engine.batch_size = 40
    (found,), state = race.select([[5, 8]], as_engine(engine))
    assert engine.calls == [(POSITION.with_token(t), row) for t in (5, 8) for row in range(40)]
    assert state.dropped == found.dropped == {}
