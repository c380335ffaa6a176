"""Which server is asked, and with which key, which is never told."""

import json
from pathlib import Path
from typing import Any

import pytest

from greater_fast.front_ends.endpoint import Server
from tests.cases import examples
from tests.front_ends.endpoint.asking import KEY, measured, server
from tests.front_ends.served import Handler, Served

pytestmark = pytest.mark.front_ends


def test_an_error_that_comes_as_a_reply_is_told(served: Served) -> None:
    served.fault = lambda handler, *_: (
        handler.send(200, {"error": {"message": "the quota is used up"}}) or True
    )
    with pytest.raises(ValueError, match=r"has no choices, but \['error'\]: .*quota is used up"):
        measured(served, examples(1), num_retries=0)


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("has_path", [False, True])
def test_an_address_without_a_version_is_told_of_it(
    served: Served, *, has_path: bool, chat: bool
) -> None:
    """The server has nothing there, or something of its own, as llama.cpp's `/completions`."""
    url = served.url
    served.url = url.removesuffix("/v1")
    if has_path:
        served.fault = lambda handler, *_: (
            handler.send(200, {"content": "so", "tokens": []}) or True
        )
    said = r"has no choices, but \['content', 'tokens'\]" if has_path else "answered 404"
    with pytest.raises(ValueError, match=said) as caught:
        measured(served, examples(1), tokenizer=None if chat else served.lm)
    told = str(caught.value)
    assert f"; such an address mostly ends with /v1: try {url}" in told
    assert "--chat" not in told
    if has_path and not chat:  # of each of the four to six ways two requests
        assert 8 <= len(served.asked) <= 12
    for address in (url, f"{url}beta/openai", "https://host/api/v2"):
        assert Server(address, "m").hint == ""


def test_the_key_is_sent_and_never_told(
    served: Served,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Not even where the server writes it into all that it says."""
    monkeypatch.setenv("SOME_KEY", KEY)

    def echoes(handler: Handler, path: str, body: Any) -> bool:
        if path != "/v1/completions" or body["max_tokens"] == 1:
            return False
        handler.send(200, {"choices": [{"text": f"so {handler.headers['Authorization']}."}]})
        return True

    served.fault = echoes
    records = tmp_path / "rows.jsonl"
    report = measured(served, examples(2), key_variable="SOME_KEY", records=records, progress=True)
    assert {h.get("Authorization") for _, _, h in served.asked} == {f"Bearer {KEY}"}
    assert report.evaluation.rows[0].reasoning == "so Bearer [key]."
    told = [str(report), records.read_text(), *capsys.readouterr()]

    def refuses(handler: Handler, path: str, body: Any) -> bool:
        handler.send(401, {"error": {"message": f"wrong: {handler.headers['Authorization']}"}})
        return True

    served.fault = refuses
    with pytest.raises(ValueError, match="the key was sent that stands in SOME_KEY") as caught:
        measured(served, examples(2), key_variable="SOME_KEY")
    with pytest.raises(ValueError, match="does it want a key"):
        measured(served, examples(2))
    told += [str(caught.value), str(server(served, key_variable="SOME_KEY"))]
    assert not [text for text in told if KEY in text]
    assert not any("unencrypted" in note for note in report.notes)  # it stays on this machine


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"choices": [{"text": {"auth": "Bearer KEY"}, "message": {"content": ["KEY"]}}]},
            "has no (text|content)",
        ),
        (
            {"choices": [{"text": ["x" * 60 + "KEY"], "message": {"content": ["x" * 60 + "KEY"]}}]},
            "xx",
        ),
        ({"KEY": 1, "other": ["KEY"]}, r"no choices, but \['\[key\]', 'other'\]"),
        ({"choices": [{"text": "", "token_ids": ["KEY"], "message": {"content": 1}}]}, "has "),
    ],
)
def test_a_reply_that_is_none_does_not_tell_the_key(
    served: Served, monkeypatch: pytest.MonkeyPatch, content: Any, message: str, *, chat: bool
) -> None:
    """Nor a part of it, where what the server says is shortened; nor how JSON may write it."""
    monkeypatch.setenv("SOME_KEY", KEY)
    written = json.dumps(content).replace("KEY", "\\u0073" + KEY[1:])

    def fault(handler: Handler, path: str, body: Any) -> bool:
        handler.send(200, written.encode())
        return True

    served.fault = fault
    tokenizer = None if chat else served.lm
    with pytest.raises(ValueError, match=message) as caught:
        measured(served, examples(1), num_retries=0, key_variable="SOME_KEY", tokenizer=tokenizer)
    assert KEY[:8] not in str(caught.value)


@pytest.mark.parametrize("content", ['{"detail": "\\u0073KEY"}', '"\\u0073KEY"', "no: sKEY"])
def test_an_error_does_not_tell_the_key(
    served: Served, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    said = content.replace("KEY", KEY[1:]).encode()
    served.fault = lambda handler, *_: handler.send(400, said) or True
    with pytest.raises(ValueError, match=r"the server answered 400: .*\[key\]") as caught:
        measured(served, examples(1), key_variable="SOME_KEY")
    assert KEY[1:] not in str(caught.value)


def test_no_key_is_sent_that_is_not_named(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    measured(served, examples(1))
    assert not [headers for _, _, headers in served.asked if "Authorization" in headers]


@pytest.mark.parametrize("value", ["", "  ", "sk-\x01", "ключ"])
def test_a_key_that_is_none(served: Served, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", value)
    with pytest.raises(ValueError, match=r"key_variable: .*'SOME_KEY'") as caught:
        measured(served, examples(1), key_variable="SOME_KEY")
    assert "sk-" not in str(caught.value)
    assert served.asked == []


def test_a_key_without_encryption_is_noted(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    monkeypatch.setattr(Server, "is_open", True)
    report = measured(served, examples(1), key_variable="SOME_KEY")
    assert f"the key went to {served.url} unencrypted: https keeps it from others" in report.notes


@pytest.mark.parametrize(
    ("url", "is_here", "is_open"),
    [
        ("http://localhost:8000/v1/", True, False),
        ("http://[::1]:8000/v1", True, False),
        ("http://example.org/v1", False, True),
        ("https://example.org/v1", False, False),
    ],
)
def test_where_a_server_is(url: str, is_here: bool, is_open: bool) -> None:
    found = Server(url, "m")
    assert (found.is_here, found.is_open) == (is_here, is_open)
    assert found.url == url.rstrip("/")
    assert f"{found.root}/v1" == found.url


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "127.0.0.1:8000"}, "endpoint: got '127.0.0.1:8000', expected an address"),
        ({"url": "ftp://host/v1"}, "endpoint: got 'ftp://host/v1'"),
        ({"url": "file:///etc/passwd"}, "endpoint: got 'file:///etc/passwd'"),
        ({"url": "http://host:x/v1"}, "endpoint: got"),
        ({"url": "http://host/v1\r\nX: y"}, "endpoint: got"),
        ({"url": None}, "endpoint: got None"),
        ({"url": "http://me:secret@host/v1"}, "with a name, a password or a query"),
        ({"url": "http://host/v1?key=secret"}, "with a name, a password or a query"),
        ({"url": "me:secret@host"}, "endpoint: got 'host'"),
        ({"model": " "}, "model: got ' '"),
        ({"num_concurrent": 0}, "num_concurrent: got 0, expected 1 to 1024"),
        ({"num_concurrent": True}, "num_concurrent: got True"),
        ({"num_retries": -1}, "num_retries: got -1"),
        ({"timeout_s": 0}, "timeout_s: got 0"),
        ({"wait_s": float("inf")}, "wait_s: got inf"),
    ],
)
def test_a_server_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Server(**{"url": "http://host/v1", "model": "m", **options})
    assert "secret" not in str(caught.value)
