"""What libraries say while a command runs: nothing that they quote steers a terminal."""

import logging
import sys
import warnings
from typing import Any

import pytest

from greater_fast.cli.libraries import heard_in_words

WILD = "a\x1b[2J\u202eb"
SHOWN = "a\\u001b[2J\\u202eb"


def test_warnings_of_others_are_fit_to_be_seen(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *given: print(*given, file=sys.stderr)
        with heard_in_words():
            warnings.warn_explicit(WILD, UserWarning, f"/elsewhere/{WILD}.py", 7)
    assert capsys.readouterr().err.startswith(
        f"{SHOWN} <class 'UserWarning'> /elsewhere/{SHOWN}.py 7"
    )


@pytest.mark.parametrize("name", ["greater_fast", "transformers", "datasets", "anybody"])
def test_lines_of_logs_are_fit_to_be_seen(name: str, caplog: pytest.LogCaptureFixture) -> None:
    found: list[Any] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(self.format(record))

    log, handler, factory = logging.getLogger(name), Keeping(), logging.getLogRecordFactory()
    log.addHandler(handler)
    try:
        with heard_in_words():
            log.error("of %s: %d", WILD, 3)
        assert logging.getLogRecordFactory() is factory
        log.error("as it is: %s", WILD)
    finally:
        log.removeHandler(handler)
    assert found == [f"of {SHOWN}: 3", f"as it is: {WILD}"]


def test_an_error_leaves_logging_as_it_was() -> None:
    factory, show = logging.getLogRecordFactory(), warnings.showwarning
    with pytest.raises(KeyError), heard_in_words():
        raise KeyError
    assert (logging.getLogRecordFactory(), warnings.showwarning) == (factory, show)
