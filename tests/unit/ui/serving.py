"""The page's server in a thread of the test's process, at a port of its own."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message

from greater_fast.ui.server import application
from greater_fast.ui.session import Session


@contextlib.contextmanager
def served(session: Session, said: list[str] | None = None) -> Iterator[str]:
    """Serve the page of a session; yields its address. What is said goes to `said`."""
    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as listening:
        app = application(session, "127.0.0.1", [].append if said is None else said.append)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.05)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def asked(
    address: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes, Message]:
    """Status, content and headers of the answer to a request."""
    request = urllib.request.Request(address, body, headers or {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers
