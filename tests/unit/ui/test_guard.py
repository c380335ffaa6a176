"""Requests that other sites' pages could make are refused, and answers carry their policy."""

import asyncio
from typing import Any

import pytest

from greater_fast.ui.guard import POLICY, Guard

pytestmark = pytest.mark.ui


async def _plain(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"x-content-type-options", b"own")] if scope["path"] == "/own" else []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"here"})


def asked(
    headers: dict[str, str], at: str = "127.0.0.1", path: str = "/"
) -> tuple[int, dict[str, str]]:
    """Status and headers of the answer to a request with these headers."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {}

    given = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope = {"type": "http", "path": path, "headers": given}
    asyncio.run(Guard(_plain, at)(scope, receive, send))
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], answered


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "[::1]:7860", "LOCALHOST"])
def test_this_machine_is_answered(host: str) -> None:
    status, headers = asked({"host": host})
    assert status == 200
    assert headers["content-security-policy"] == POLICY
    assert asked({"host": host, "origin": f"http://{host}"})[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example:7860"},
        {"host": "["},
        {"host": "localhost:7860", "origin": "http://evil.example"},
        {"host": "localhost:7860", "origin": "http://localhost:9999"},
        {"host": "localhost:7860", "origin": "null"},
        {"host": "localhost:7860", "origin": "http://["},
    ],
)
def test_others_are_not(headers: dict[str, str]) -> None:
    assert asked(headers)[0] == 403


@pytest.mark.parametrize("at", ["0.0.0.0", "192.168.0.7", "::", "Box.lan"])
def test_an_open_server_has_addresses_and_names_of_its_own(
    at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name of somebody else's may be bound to this machine while a page of it is open."""
    monkeypatch.setattr("socket.gethostname", lambda: "Box")
    monkeypatch.setattr("socket.getfqdn", lambda: "Box.lab.example")
    names = ["192.168.0.7:7860", "[fd00::7]:7860", "box", "BOX.lab.example:7860", "box.local"]
    for name in (*names, "localhost:7860", *(["box.lan"] if at == "Box.lan" else [])):
        assert asked({"host": name}, at)[0] == 200
        assert asked({"host": name, "origin": f"http://{name}"}, at)[0] == 200
        for other in ("http://evil.example", "http://["):
            assert asked({"host": name, "origin": other}, at)[0] == 403
    for name in ("evil.example:7860", "box.evil.example", "192.168.0.7.evil.example", ""):
        assert asked({"host": name, "origin": f"http://{name}"}, at)[0] == 403


def test_every_address_of_the_loopback_is_this_machines_alone() -> None:
    assert asked({"host": "127.0.0.2:7860"}, "127.0.0.2")[0] == 200
    assert asked({"host": "192.168.0.7:7860"}, "127.0.0.2")[0] == 403


@pytest.mark.parametrize("path", ["/gradio_api/file=/etc/passwd", "/gradio_api/proxy=http://a/"])
def test_files_and_addresses_are_not_fetched(path: str) -> None:
    assert asked({"host": "localhost"}, path=path)[0] == 403


def test_an_answers_own_headers_stay() -> None:
    assert asked({"host": "localhost"}, path="/own")[1]["x-content-type-options"] == "own"
