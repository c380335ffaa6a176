"""Rows under way at the same time, and what becomes of them when one fails."""

import threading
import time
from typing import Any

import pytest

from greater_fast.front_ends.endpoint.threads import in_threads
from tests.cases import examples
from tests.front_ends.endpoint.asking import CONFIG, measured
from tests.front_ends.served import Handler, Served

pytestmark = pytest.mark.front_ends


@pytest.mark.parametrize("most", [1, 3])
def test_so_many_requests_are_under_way(served: Served, most: int) -> None:
    full = threading.Barrier(most)

    def waits(handler: Handler, path: str, body: Any) -> bool:
        if path == "/v1/completions" and body["max_tokens"] == CONFIG["max_new_tokens"]:
            full.wait(30)  # is left once so many are there
        return False

    served.fault = waits
    report = measured(served, examples(6), num_concurrent=most)
    assert report.evaluation.num_rows == 6
    assert served.most_under_way == most


def test_an_interruption_waits_for_no_thread() -> None:
    stop, release = threading.Event(), threading.Event()
    begun: list[int] = []

    def ask(row: int) -> int:
        begun.append(row)
        if row:
            release.wait(30)
        return row

    def heard(row: int, answer: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_threads(range(20), ask, heard, 2, stop)
    assert stop.is_set()
    release.set()
    time.sleep(0.05)
    assert len(begun) <= 4


def test_after_an_error_rows_under_way_are_heard_of() -> None:
    both = threading.Barrier(2)
    heard: list[tuple[int, int]] = []

    def ask(row: int) -> int:
        both.wait(30)
        if row == 0:
            raise ValueError("row 0")
        time.sleep(0.05)
        return row

    with pytest.raises(ValueError, match="row 0"):
        in_threads(range(20), ask, lambda *item: heard.append(item), 2, threading.Event())
    assert heard == [(1, 1)]


def test_after_an_error_of_who_hears_rows_under_way_are_heard_of() -> None:
    both, begun, heard = threading.Barrier(2), list[int](), list[int]()

    def ask(row: int) -> int:
        begun.append(row)
        if row < 2:
            both.wait(30)
        time.sleep(0.02)
        return row

    def hears(row: int, answer: int) -> None:
        heard.append(row)
        raise ValueError(f"row {row}")

    with pytest.raises(ValueError, match="row ") as caught:
        in_threads(range(100), ask, hears, 2, threading.Event())
    assert str(caught.value) == f"row {heard[0]}"
    assert sorted(heard) == sorted(begun)
    assert len(begun) < 100


def test_threads_that_do_not_start_end_those_that_did(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, begun, start, started = (
        threading.Event(),
        list[int](),
        threading.Thread.start,
        list[Any](),
    )

    def starts(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    def ask(row: int) -> int:
        begun.append(row)
        stop.wait(30)
        return row

    monkeypatch.setattr(threading.Thread, "start", starts)
    with pytest.raises(RuntimeError, match="can't start"):
        in_threads(range(20), ask, lambda *_: None, 4, stop)
    assert stop.is_set()
    started[0].join(30)
    assert len(begun) <= 1
