"""The server of the page: the page itself, reports, and whole runs to download."""

from __future__ import annotations

import contextlib
import functools
import html
import os
import signal
import socket
import tempfile
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from greater_fast.ui.guard import REPORT_POLICY, Guard, is_loopback
from greater_fast.ui.session import Session

REPORT = "report.html"
_LARGEST_UPLOAD = "1gb"
_PART = 1 << 18  # bytes of an archive that are sent at a time


def application(session: Session, host: str, say: Callable[[str], None]) -> Any:
    """The page over a session as an ASGI application, for a server at that address.

    When the server ends, the run that goes on is stopped, as by Ctrl-C; `say` is told of it.

    Raises:
        ImportError: gradio is not installed; names the extra.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(session.uploads)  # read when gradio is imported
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
        from fastapi import FastAPI
        from starlette.concurrency import run_in_threadpool
    except ImportError as error:
        raise ImportError(
            f"the page needs gradio ({error}): pip install 'greater-fast[ui]'"
        ) from error
    from greater_fast.ui import page

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        if (run := await run_in_threadpool(session.close)) is not None:
            say(await run_in_threadpool(session.farewell, run))

    app = FastAPI(lifespan=lifespan, openapi_url=None)
    answers: dict[str, Callable[[Path], Any]] = {
        "report": functools.partial(report_of, writing=threading.Lock()),
        "download": whole,
    }
    for name, answer in answers.items():
        app.add_route(f"/runs/{{name}}/{name}", _of_a_run(session, answer))
    blocks = page.page(session)
    app = gradio.mount_gradio_app(
        app,
        blocks,
        path="/",
        theme=page.THEME,
        css_paths=[page.STYLE],
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        show_error=False,
        enable_monitoring=False,
        max_file_size=_LARGEST_UPLOAD,
    )
    blocks.has_launched = True  # else gradio takes any path of this machine for an upload
    return Guard(app, host)


def _of_a_run(session: Session, answer: Callable[[Path], Any]) -> Callable[..., Any]:
    """A route that answers with what belongs to the run named in it, or with what is wrong."""
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import HTMLResponse

    async def route(request: Any) -> Any:
        try:
            run = session.find(request.path_params["name"])
            return await run_in_threadpool(answer, run)
        except (ImportError, OSError, ValueError) as error:
            text = f"<!doctype html><title>greater_fast</title><p>{html.escape(str(error))}</p>"
            headers = {"content-security-policy": REPORT_POLICY}
            return HTMLResponse(text, status_code=404, headers=headers)

    return route


def report_of(run: Path, writing: threading.Lock) -> Any:
    """The report of a run as it is now; it stays in the run's folder.

    One is written at a time, whoever asks, and takes the place of the one before as a whole.

    Raises:
        ValueError: the folder holds no run yet.
    """
    from starlette.responses import HTMLResponse

    from greater_fast.report import write_report

    with writing, tempfile.TemporaryDirectory(prefix=".report-", dir=run.parent) as folder:
        written = Path(folder) / REPORT
        write_report([run], written)
        content = written.read_bytes()
        written.replace(run / REPORT)
    return HTMLResponse(content, headers={"content-security-policy": REPORT_POLICY})


def whole(run: Path) -> Any:
    """All files of a run in a ZIP archive, which lies on the disk only while it is sent."""
    from starlette.background import BackgroundTask
    from starlette.responses import StreamingResponse

    file = tempfile.TemporaryFile(dir=run.parent)  # noqa: SIM115 (closed when it was sent)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(run.rglob("*")):
            if path.is_file() and not path.is_symlink():
                archive.write(path, Path(run.name) / path.relative_to(run))
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    # RFC 8187: a header takes Latin letters alone, and a folder may have any name
    name = quote(f"{run.name}.zip", safe="")
    headers = {
        "content-disposition": f"attachment; filename*=UTF-8''{name}",
        "content-length": str(size),
    }
    parts = iter(functools.partial(file.read, _PART), b"")
    return StreamingResponse(
        parts, media_type="application/zip", headers=headers, background=BackgroundTask(file.close)
    )


def serve(session: Session, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve the page until a signal ends it; `say` is told its address, and who can reach it.

    Raises:
        ImportError: as `application`.
        OSError: the port is in use, or the address none of this machine.
    """
    app = application(session, host, say)
    import uvicorn

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listening:
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
        )
        start, number = server.startup, listening.getsockname()[1]

        async def start_and_say(sockets: Any = None) -> None:
            await start(sockets)
            for line in _reached_at(host, number):
                say(line)

        server.startup = start_and_say
        with _ended_by_signals(server):
            say(f"runs are in {session.folder}")
            server.run(sockets=[listening])


@contextlib.contextmanager
def _ended_by_signals(server: Any) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP (a terminal that is closed) end a server, and its run with it.

    uvicorn does not listen for the last one, and for the others a little later: raised in the midst
    of gradio they may be lost. What they did before but Ctrl-C they do behind the block. One that
    is ignored (nohup) stays so.
    """
    came: list[int] = []

    def end(number: int, frame: Any) -> None:
        came.append(number)
        server.handle_exit(number, frame)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for received in came:
        if received != signal.SIGINT:
            signal.raise_signal(received)


def _reached_at(host: str, port: int) -> Iterator[str]:
    """Where the page is, and who else can reach it."""
    yield f"the page is at http://{f'[{host}]' if ':' in host else host}:{port}"
    if not is_loopback(host):
        yield (
            f"warning: whoever reaches {host} can use this page: load any model, read all runs and "
            "take this machine's time; leave --host out to keep it to this machine"
        )
