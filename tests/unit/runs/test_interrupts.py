"""Signals that this very process gets: the first, those with it, a second, one at the end."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from greater_fast.runs import interrupts
from greater_fast.runs.interrupts import Signals, Terminated, signals_heard, signals_taken

ENDING = [signal.SIGTERM, signal.SIGHUP]
ALL = [signal.SIGINT, *ENDING]


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Every test gives back what it took."""
    before = {number: signal.getsignal(number) for number in ALL}
    yield
    assert {number: signal.getsignal(number) for number in ALL} == before


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of day that signals see."""
    now = [100.0]
    monkeypatch.setattr(interrupts.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("number", ENDING)
def test_those_that_end_the_process_have_a_shells_status(number: signal.Signals) -> None:
    with signals_heard(), pytest.raises(Terminated) as caught:
        send(number)
    assert (caught.value.code, caught.value.name) == (128 + number, number.name)


def test_ctrl_c() -> None:
    with signals_heard(), pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)


@pytest.mark.parametrize("number", ALL)
@pytest.mark.parametrize("num_blocks", [1, 2])
def test_one_in_a_callback_is_raised_behind_it(
    number: signal.Signals, num_blocks: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """Python would drop it there, with a traceback on standard error."""

    class Thing:
        def __del__(self) -> None:
            send(number)

    hook = sys.unraisablehook
    expected = KeyboardInterrupt if number == signal.SIGINT else Terminated

    def work() -> None:
        things = [Thing()]
        things.clear()
        time.sleep(10)

    with contextlib.ExitStack() as blocks:
        for _ in range(num_blocks):
            blocks.enter_context(signals_heard())
        with pytest.raises(expected):
            work()
    assert sys.unraisablehook is hook
    assert capfd.readouterr().err == ""


def test_other_errors_in_a_callback_are_told_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    class Thing:
        def __del__(self) -> None:
            raise ValueError("in a callback")

    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: told.append(dropped.exc_type))
    with signals_heard():
        things = [Thing()]
        things.clear()
    assert told == [ValueError]


@pytest.mark.parametrize("is_kept", [True, False])
def test_what_is_there_already_is_noted_on_one_behind_the_work(is_kept: bool) -> None:
    def work() -> None:
        with signals_heard() as signals:
            with signals.interrupting():
                pass
            if is_kept:
                send(signal.SIGTERM)
            signals.leave("the result is there")
        send(signal.SIGTERM)

    with signals_heard(), pytest.raises(Terminated) as caught:
        work()
    assert caught.value.__notes__ == ["the result is there"]


@pytest.mark.parametrize("second", ALL)
@pytest.mark.parametrize("first", ALL)
def test_those_that_come_together_are_one(
    clock: list[float], first: signal.Signals, second: signal.Signals
) -> None:
    told = []
    with signals_heard():
        try:
            send(first)
        except (KeyboardInterrupt, Terminated):
            clock[0] += 0.4
            send(second)
            told.append("written")
            clock[0] += 0.2
            with pytest.raises((KeyboardInterrupt, Terminated)):
                send(second)
    assert told == ["written"]


def work(done: list[str], *behind: Callable[[], object]) -> None:
    """Work that a signal may stop, what happens when it is done, and what is written then."""
    with signals_heard() as signals:
        with signals.interrupting():
            done.append("work")
        for act in behind:
            act()
        done.append("written")


def test_a_first_one_behind_the_work_is_kept_to_the_end() -> None:
    done: list[str] = []
    with signals_heard(), pytest.raises(Terminated):
        work(done, lambda: send(signal.SIGTERM))
    assert done == ["work", "written"]


def test_a_ctrl_c_behind_the_work_has_nothing_to_stop(clock: list[float]) -> None:
    done: list[str] = []
    with signals_heard():
        work(done, lambda: send(signal.SIGINT))
        clock[0] += 1
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
    assert done == ["work", "written"]


def test_a_second_one_behind_the_work_stops_at_once(clock: list[float]) -> None:
    done: list[str] = []

    def twice() -> None:
        send(signal.SIGINT)
        clock[0] += 1
        send(signal.SIGTERM)

    with pytest.raises(Terminated):
        work(done, twice)
    assert done == ["work"]


def test_an_error_behind_the_work_goes_before_what_was_kept() -> None:
    def fail() -> None:
        send(signal.SIGTERM)
        raise KeyError("mine")

    with signals_heard() as outer:
        with pytest.raises(KeyError):
            work([], fail)
        outer.hear_anew()
        with pytest.raises(KeyboardInterrupt):  # nothing is kept any more
            send(signal.SIGINT)


def test_one_that_somebody_took_for_himself_is_forgotten(clock: list[float]) -> None:
    with signals_heard() as signals:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                send(signal.SIGINT)
            signals.hear_anew()


@pytest.mark.parametrize("own", [signal.SIG_IGN, lambda number, frame: None])
def test_what_a_program_has_its_own_way_with_is_left(own: Any) -> None:
    before = signal.signal(signal.SIGHUP, own)
    try:
        with signals_heard():
            assert signal.getsignal(signal.SIGHUP) is own
            send(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_take_none() -> None:
    found: list[Any] = []

    def look() -> None:
        with signals_heard(), signals_taken(lambda number, frame: None):
            found.extend(signal.getsignal(number) for number in ALL)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL]


def test_a_run_in_another_thread_has_none_of_the_main_ones() -> None:
    """What that run keeps for its end, and notes, is not the other's."""
    found: list[Signals] = []

    def run() -> None:
        with signals_heard() as signals:
            found.append(signals)

    with signals_heard() as outer:
        run()
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert [own is outer for own in found] == [True, False]
