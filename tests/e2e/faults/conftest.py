"""Faults, told apart from what the tests' own parent does: `nohup` and `&` ignore signals."""

import signal
from collections.abc import Iterator

import pytest

USUAL = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}


@pytest.fixture(autouse=True)
def signals_as_usual() -> Iterator[None]:
    """Signals as a shell hands them to a program, here and in children."""
    before = {number: signal.signal(number, usual) for number, usual in USUAL.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
