import os
import signal
import threading

import pytest

from greater_fast.ctrl_c import interrupts_later, no_interrupts
from greater_fast.runs.interrupts import Terminated, signals_heard


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_it_is_heard_at_the_end_of_the_block() -> None:
    done = []

    def work() -> None:
        interrupt()
        with interrupts_later():
            interrupt()
        done.append("all of it")

    with pytest.raises(KeyboardInterrupt), interrupts_later():
        work()
    assert done == ["all of it"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_signals_that_end_the_process_wait_too_where_they_are_heard() -> None:
    done = []

    def work() -> None:
        with interrupts_later():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("all of it")

    with signals_heard(), pytest.raises(Terminated):
        work()
    assert done == ["all of it"]
    with interrupts_later():  # where it just ends the process, it does
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_without_one_nothing_is_raised() -> None:
    with interrupts_later():
        pass
    with no_interrupts():
        interrupt()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_within_goes_before_it() -> None:
    def fail() -> None:
        interrupt()
        raise KeyError("mine")

    with pytest.raises(KeyError), interrupts_later():
        fail()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_error_within_does_not_take_a_signal_that_ends_the_process(
    number: signal.Signals,
) -> None:
    error = KeyError("mine")

    def fail() -> None:
        with interrupts_later():
            interrupt()
            os.kill(os.getpid(), number)
            raise error

    with signals_heard(), pytest.raises(Terminated) as caught:
        fail()
    assert (caught.value.name, caught.value.__cause__) == (number.name, error)


def test_other_threads_leave_signals_alone() -> None:
    found = []

    def look() -> None:
        with interrupts_later(), no_interrupts():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]
