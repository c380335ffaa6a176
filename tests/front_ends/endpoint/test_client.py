"""A server that fails, hangs, redirects or says what is no reply: bounded, tried again, told of."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from greater_fast.front_ends.endpoint import client
from greater_fast.model.lm import LM
from greater_fast.runs.result import Report
from greater_fast.version import __version__
from tests.cases import examples
from tests.front_ends.endpoint.asking import KEY, Rows, fails, measured, server
from tests.front_ends.served import Handler, Served, serving

pytestmark = pytest.mark.front_ends


def replies(content: bytes) -> Callable[[Handler, str, Any], bool]:
    """A fault: completions of rows have that content."""

    def fault(handler: Handler, path: str, body: Any) -> bool:
        if path != "/v1/completions" or body["max_tokens"] == 1:
            return False
        handler.send(200, content)
        return True

    return fault


def test_failures_that_pass_are_tried_again(served: Served, right_rows: Rows, here: Report) -> None:
    served.fault = fails(7)
    report = measured(served, right_rows)
    assert report.evaluation == here.evaluation
    assert len(served.completions()) == 2 * len(right_rows) + 7


@pytest.mark.parametrize(("status", "num_asked"), [(520, 3), (524, 3), (501, 1), (505, 1)])
def test_failures_of_whoever_stands_before_the_server_pass(
    served: Served, status: int, num_asked: int
) -> None:
    served.fault = fails(1000, status)
    with pytest.raises(ValueError, match=f"the server answered {status}"):
        measured(served, examples(1), num_retries=2)
    assert len(served.completions()) == num_asked


def test_it_says_who_asks(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a name of its own; and who was sent a key is not asked whether one is wanted."""
    measured(served, examples(1))
    assert {headers["User-Agent"] for _, _, headers in served.asked} == {
        f"greater-fast/{__version__}"
    }
    monkeypatch.setenv("SOME_KEY", KEY)
    served.fault = fails(1000, 403)
    with pytest.raises(ValueError, match=r"answered 403: .*; the key was sent that stands in SOME"):
        measured(served, examples(1), key_variable="SOME_KEY")


def test_failures_that_do_not_pass_name_the_row(served: Served) -> None:
    served.fault = fails(1000)
    with pytest.raises(ValueError, match=r"^row 0 \('Question 1: ") as caught:
        measured(served, examples(3), num_concurrent=1, num_retries=2)
    assert str(caught.value).endswith(
        f"the server answered 500: try\\x1b[31m again (3 tries at {served.url}/completions)"
    )
    assert len(served.completions()) == 3  # no other row was begun


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"choices": [', "no JSON, or was cut off"),
        (b"[" * 100_000, "no JSON, or was cut off"),
        (b"[]", "no JSON object"),
        (b'{"error": "no"}', r"no choices, but \['error'\]"),
        (b'{"choices": []}', "no choices"),
        (b'{"choices": [{"text": null}]}', "no text, but None"),
        (b'{"choices": [{"text": "a\\ud83d b"}]}', r"half a character in its text: '\\ud83d b'"),
        (b'{"choices": [{"text": "a", "token_ids": [5, true]}]}', "token ids that are none"),
        (b'{"choices": [{"text": "a", "token_ids": [-1]}]}', "token ids that are none"),
        (b'{"choices": [{"text": "a", "token_ids": [1, 1, 1, 1, 1, 1, 1]}]}', "more than 6"),
    ],
)
def test_replies_that_are_none_name_the_row(served: Served, content: bytes, message: str) -> None:
    served.fault = replies(content)
    with pytest.raises(ValueError, match=rf"^row 0 \('Question 1: .*{message}.*2 tries"):
        measured(served, examples(1), num_retries=1)


@pytest.mark.parametrize("begun", [None, b"", b'{"choices": [{"te'])
def test_a_connection_that_is_cut(served: Served, begun: bytes | None) -> None:
    def cuts(handler: Handler, path: str, body: Any) -> bool:
        if path != "/v1/completions" or body["max_tokens"] == 1:
            return False
        if begun is not None:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + begun)
        handler.close_connection = True
        return True

    served.fault = cuts
    message = "no JSON, or was cut off" if begun is not None else "not reached, or hung up: "
    with pytest.raises(ValueError, match=rf"^row 0 \('Question 1: .*{message}.* \(2 tries"):
        measured(served, examples(1), num_retries=1)
    assert len(served.completions()) == 2


def test_a_server_that_is_not_there(served: Served) -> None:
    served.url = "http://127.0.0.1:9/v1"  # discard: nobody listens
    with pytest.raises(ValueError, match=r"not reached, .*refused \(2 tries at http://127.0.0.1:9"):
        measured(served, examples(1), num_retries=1)


def test_a_reply_that_does_not_come_or_end_in_time(served: Served) -> None:
    gone = threading.Event()

    def drips(handler: Handler, path: str, body: Any) -> bool:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
        while not gone.wait(0.02):
            handler.wfile.write(b" ")
        return True

    served.fault = drips
    with pytest.raises(ValueError, match=r"did not end in time \(timeout_s, --timeout\)"):
        measured(served, examples(1), timeout_s=2, num_retries=0)
    served.fault = lambda *_: gone.wait(30)
    with pytest.raises(
        ValueError, match=r"did not answer within 0\.1 seconds \(timeout_s, --timeout\)"
    ):
        measured(served, examples(1), timeout_s=0.1, num_retries=0)
    gone.set()


def test_a_reply_is_read_up_to_a_bound(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_MOST_BYTES", 1000)
    served.fault = replies(b" " * 1001)
    with pytest.raises(ValueError, match=r"^row 0 .* more than 1,000 bytes \(at "):
        measured(served, examples(1), num_retries=0)


def test_waits_grow_up_to_a_bound_and_hear_the_server(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    found = client.Client(server(served, wait_s=8.0, num_retries=4))
    monkeypatch.setattr(found.stop, "wait", waited.append)
    served.fault = fails(4, 429)
    body = {"model": "tiny", "prompt": [5], "max_tokens": 2, "temperature": 0}
    assert found.post("/completions", body, lambda reply: len(reply["choices"])) == 1
    assert len(waited) == 4
    for wait, most in zip(waited, (8, 16, 30, 30), strict=True):
        assert most / 2 <= wait <= most
    for text, expected in (("100", 100), ("1e9", 120), ("-5", 4), ("nan", 4), ("soon", 4)):
        waited.clear()
        served.fault = fails(1, 429, Retry_After=text)
        found.post("/completions", body, len)
        assert len(waited) == 1
        assert waited[0] == expected or 4 <= waited[0] <= 8 < expected + 5, text
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))
    served.fault = fails(1, 503, Retry_After=date)
    waited.clear()
    found.post("/completions", body, len)
    assert 0 < waited[0] <= 101


@pytest.mark.parametrize("chat", [False, True])
def test_a_wait_is_told_of(served: Served, capsys: pytest.CaptureFixture[str], chat: bool) -> None:
    """On the trial of a layout, and by chat, where a row is the first that is asked for."""
    served.url = "http://127.0.0.1:9/v1"  # discard: nobody listens
    tokenizer = None if chat else served.lm
    for progress, num_told in ((True, 2), (False, 0)):
        with pytest.raises(ValueError, match="3 tries"):
            measured(*(served, examples(1)), progress=progress, num_retries=2, tokenizer=tokenizer)
        lines = capsys.readouterr().err.splitlines()
        again = [line for line in lines if "not reached" in line]
        assert len(again) == num_told
        assert all(line.endswith(": asked again in 0.0 s") for line in again)


def test_who_waits_at_the_same_time_is_told_of_once(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    found, now = client.Client(server(served, wait_s=8.0, num_retries=1)), [100.0]
    found.tell = lines.append
    monkeypatch.setattr(found.stop, "wait", lambda seconds: None)
    monkeypatch.setattr(client.time, "monotonic", lambda: now[0])
    body = {"model": "tiny", "prompt": [5], "max_tokens": 2, "temperature": 0}
    for seconds, num_told in ((0, 1), (3, 1), (10, 2)):
        now[0] = 100.0 + seconds
        served.fault = fails(1, 429)
        found.post("/completions", body, len)
        assert len(lines) == num_told
    assert lines[0].startswith("the server answered 429: try\\x1b[31m again: asked again in ")


def test_once_stopped_nothing_is_asked(served: Served) -> None:
    found = client.Client(server(served))
    found.stop.set()
    with pytest.raises(client.StoppedError):
        found.post("/completions", {}, len)
    assert served.asked == []


def test_what_the_server_refuses_is_not_tried_again(served: Served) -> None:
    served.fault = fails(1000, 400)
    with pytest.raises(ValueError, match=r"^row 0 .* the server answered 400: try"):
        measured(served, examples(1))
    assert len(served.completions()) == 1


def test_a_redirect_is_not_followed(
    served: Served, lm: LM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    with serving(lm) as other:
        for status in (301, 302, 303, 307, 308):
            place = f"{other.url}/completions?key={KEY}"

            def sends(
                handler: Handler, path: str, body: Any, status: int = status, place: str = place
            ) -> bool:
                handler.send(status, {}, Location=place)
                return True

            served.fault = sends
            with pytest.raises(ValueError, match=f"answered {status}.*sends us to") as caught:
                measured(served, examples(1), key_variable="SOME_KEY")
            assert f"'{other.url}/completions?key=[key]'" in str(caught.value)
        assert other.asked == []
