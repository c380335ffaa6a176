"""Who may ask the page's server, and what its pages may ask of others: nobody, and nothing."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, MutableMapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Callable[[], Awaitable[Any]], Send], Awaitable[None]]

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# gradio writes its own scripts and styles into the page; whatever is loaded is this server's.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:; frame-src 'self'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
# A report is one file without scripts; nothing in it reaches the page around it.
REPORT_POLICY = (
    "sandbox allow-popups; default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "font-src data:"
)
_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
)
# gradio's ways to fetch from elsewhere, and to read files, which the page needs neither of
_CLOSED = ("/gradio_api/file=", "/gradio_api/file/", "/gradio_api/proxy=")


def is_loopback(host: str) -> bool:
    """Whether a server that is reached by this name or address is by this machine alone."""
    return host in _LOOPBACK or (_is_address(host) and ip_address(host).is_loopback)


def names_of(host: str) -> tuple[str, ...]:
    """The names, in small letters, that a server at `host` may be asked for by."""
    if is_loopback(host):
        return (*_LOOPBACK, host.lower())
    own, full = socket.gethostname(), socket.getfqdn()
    short = own.partition(".")[0]
    return tuple(name.lower() for name in (*_LOOPBACK, host, own, full, short, f"{short}.local"))


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """An ASGI application in front of another: other sites' pages get nothing of it.

    A page that a browser has from elsewhere could otherwise start runs here, by a request of its
    own (its `Origin` is another) or by a name of its own for this machine (DNS rebinding: `Host` is
    none of this machine). `host` is where the server is reached. Where that is not by this machine
    alone, it has any address, which no name can be bound to anew, and the names of `names_of`.
    """

    def __init__(self, app: App, host: str) -> None:
        self._app, self._names, self._is_open = app, names_of(host), not is_loopback(host)

    async def __call__(
        self, scope: Scope, receive: Callable[[], Awaitable[Any]], send: Send
    ) -> None:
        """Answer a request, or refuse it with 403."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        is_closed = scope["path"].startswith(_CLOSED)
        if is_closed or not self._admits(dict(scope["headers"])):
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send(
                {
                    "type": "http.response.body",
                    "body": b"not for you: by this machine's address or own name alone\n",
                }
            )
            return

        async def answer(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                own = [header for header in _HEADERS if header[0] not in given]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        await self._app(scope, receive, answer)

    def _admits(self, headers: dict[bytes, bytes]) -> bool:
        host = headers.get(b"host", b"").decode("latin-1")
        origin = headers.get(b"origin")
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name not in self._names and not (self._is_open and _is_address(name)):
                return False
            return origin is None or urlsplit(origin.decode("latin-1")).netloc == host
        except ValueError:  # what is no address is none of ours
            return False
