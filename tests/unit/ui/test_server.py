"""What the page's server answers, and what it keeps to itself."""

import io
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest

from greater_fast.ui.guard import POLICY, REPORT_POLICY
from greater_fast.ui.server import application
from greater_fast.ui.session import Session
from tests.unit.ui.serving import asked, served

pytestmark = [
    pytest.mark.ui,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # gradio's own
]
BROKEN = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A session with one run, beside which lies what is none."""
    session = Session(tmp_path_factory.mktemp("page") / "runs")
    run = session.folder / "one"
    run.mkdir()
    for name in ("run.json", "steps.jsonl"):
        (run / name).write_text(f"{{}} {name}")
    (run / "elsewhere").symlink_to("/etc/hostname")
    (session.folder / "secret.txt").write_text("secret")
    return session


@pytest.fixture(scope="module")
def page(session: Session) -> Iterator[str]:
    with served(session) as address:
        yield address


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that writes reports, of the runs' names."""
    module = types.ModuleType("greater_fast.report")

    def write_report(runs: list[Path], out: Path) -> None:
        if runs[0].joinpath("broken").exists():
            raise ValueError(f"no report of {BROKEN}")
        out.write_text(f"<p>report of {runs[0].name}</p>")

    module.write_report = write_report  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "greater_fast.report", module)


def test_the_page_is_served_with_its_policy(page: str) -> None:
    status, content, headers = asked(f"{page}/")
    assert status == 200
    assert b"greater_fast" in content
    assert headers["content-security-policy"] == POLICY
    config = json.loads(asked(f"{page}/config")[1])
    assert config["analytics_enabled"] is False


@pytest.mark.usefixtures("report")
def test_a_report_is_written_and_shown_apart_from_the_page(page: str, session: Session) -> None:
    status, content, headers = asked(f"{page}/runs/one/report")
    assert (status, content) == (200, b"<p>report of one</p>")
    assert headers["content-security-policy"] == REPORT_POLICY
    assert (session.folder / "one" / "report.html").read_bytes() == content


@pytest.mark.usefixtures("report")
def test_a_report_that_cannot_be_written_says_why(page: str, session: Session) -> None:
    mark = session.folder / "one" / "broken"
    mark.touch()
    status, content, _ = asked(f"{page}/runs/one/report")
    mark.unlink()
    assert status == 404
    assert b"no report of &lt;script&gt;" in content


def test_reports_are_written_one_at_a_time_and_replaced_as_a_whole(
    page: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two open pages ask for them; what draws them is not made for several threads."""
    report, at_work, places = session.folder / "one" / "report.html", threading.Lock(), set()
    report.write_text("before")

    def write_report(runs: list[Path], out: Path) -> None:
        assert at_work.acquire(blocking=False), "another one is being written"
        places.add(out)
        out.write_text("half")
        time.sleep(0.2)
        assert report.read_text() in ("before", "whole")
        out.write_text("whole")
        at_work.release()

    module = types.ModuleType("greater_fast.report")
    module.write_report = write_report  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "greater_fast.report", module)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(asked, [f"{page}/runs/one/report"] * 4))
    assert [answer[:2] for answer in answers] == [(200, b"whole")] * 4
    assert len(places) == 4
    assert sorted(p.name for p in session.folder.iterdir()) == ["one", "secret.txt", "uploads"]


def test_a_run_is_downloaded_whole(page: str, session: Session) -> None:
    status, content, headers = asked(f"{page}/runs/one/download")
    assert status == 200
    assert headers.get_content_disposition() == "attachment"
    assert headers.get_filename() == "one.zip"
    assert int(headers["content-length"]) == len(content)
    archive = zipfile.ZipFile(io.BytesIO(content))
    assert archive.read("one/steps.jsonl") == b"{} steps.jsonl"
    assert "one/elsewhere" not in archive.namelist()
    assert archive.testzip() is None
    assert sorted(p.name for p in session.folder.iterdir()) == ["one", "secret.txt", "uploads"]


@pytest.mark.usefixtures("report")
@pytest.mark.parametrize("name", ["ø 思考", '"; x=\r\ny: z', "a'b%20"])
def test_a_runs_folder_may_have_any_name(page: str, session: Session, name: str) -> None:
    run = session.folder / name
    run.mkdir()
    try:
        (run / "run.json").write_text("{}")
        status, content, headers = asked(f"{page}/runs/{quote(name, safe='')}/download")
        assert status == 200
        assert headers.get_filename() == f"{name}.zip"
        assert headers["y"] is None
        assert zipfile.ZipFile(io.BytesIO(content)).namelist() == [f"{name}/run.json"]
        assert asked(f"{page}/runs/{quote(name, safe='')}/report")[0] == 200
    finally:
        shutil.rmtree(run)


@pytest.mark.parametrize("name", ["nothing", "..", "%2e%2e", "secret.txt", "uploads", "one%2F.."])
def test_nothing_but_runs_is_served(page: str, name: str) -> None:
    for what in ("report", "download"):
        status, content, _ = asked(f"{page}/runs/{name}/{what}")
        assert status == 404
        assert b"secret" not in content


def test_files_of_the_machine_are_neither_read_nor_taken_for_uploads(
    page: str, session: Session, tmp_path: Path
) -> None:
    """As gradio's own requests would ask for them."""
    secret = tmp_path / "secret.jsonl"
    secret.write_text('{"question": "q", "answer": "a"}')
    assert asked(f"{page}/gradio_api/file={secret}")[0] == 403
    config = json.loads(asked(f"{page}/config")[1])
    names = {part["id"]: part["props"].get("elem_id") for part in config["components"]}
    look = next(
        event
        for event in config["dependencies"]
        if any(names.get(part) == "look" for part, _ in event["targets"])
    )
    file = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    data = [file if names.get(part) == "data" else None for part in look["inputs"]]
    body = {"data": data, "fn_index": look["id"], "session_hash": "x"}
    sent = {"content-type": "application/json"}
    status, answer, _ = asked(f"{page}/gradio_api/queue/join", json.dumps(body).encode(), sent)
    assert status == 200, answer
    _, events, _ = asked(f"{page}/gradio_api/queue/data?session_hash=x")
    assert b'"success":false' in events.replace(b'": ', b'":')
    assert b"rows were read" not in events
    assert not list(session.uploads.rglob("secret*"))


def test_without_gradio_the_extra_is_named(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r"greater-fast\[ui\]"):
        application(session, "127.0.0.1", print)


def command(tmp_path: Path, *options: str) -> "subprocess.Popen[str]":
    program = [sys.executable, "-m", "greater_fast", "ui", "--port=0", f"--runs={tmp_path}/runs"]
    return subprocess.Popen([*program, *options], stderr=subprocess.PIPE, text=True)


def test_the_command_says_where_the_page_is_and_ends_by_ctrl_c(tmp_path: Path) -> None:
    with command(tmp_path) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == f"greater-fast: runs are in {tmp_path}/runs\n"
        line = process.stderr.readline()
        address = line.partition("the page is at ")[2].strip()
        assert address.startswith("http://127.0.0.1:"), line
        assert asked(f"{address}/")[0] == 200
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert (process.returncode, rest) == (0, "")


WITH_A_RUN = """
import signal, sys
from greater_fast.cli.main import main
from greater_fast.ui.session import Session
Session.close = lambda session: "the/run"
Session.farewell = lambda session, run: f"farewell to {run}"
if "--nohup" in sys.argv:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
sys.exit(main(["ui", "--port=0", f"--runs={sys.argv[1]}"]))
"""


def with_a_run(tmp_path: Path, *options: str) -> "subprocess.Popen[str]":
    """The command, whose session says that it has stopped a run as it is closed."""
    program = [sys.executable, "-c", WITH_A_RUN, str(tmp_path / "runs"), *options]
    return subprocess.Popen(program, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_what_ends_the_page_ends_its_run(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    with with_a_run(tmp_path) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline() for _ in range(2)]
        assert "the page is at" in lines[1]
        process.send_signal(number)
        rest = process.stderr.read()
    assert "farewell to the/run" in rest
    assert process.returncode == status, rest


def test_nohup_keeps_the_page(tmp_path: Path) -> None:
    with with_a_run(tmp_path, "--nohup") as process:
        assert process.stderr is not None
        lines = [process.stderr.readline() for _ in range(2)]
        process.send_signal(signal.SIGHUP)
        assert asked(lines[1].partition("the page is at ")[2].strip())[0] == 200
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
    assert process.returncode == 143


def test_an_open_page_is_warned_of(tmp_path: Path) -> None:
    with command(tmp_path, "--host=0.0.0.0") as process:
        assert process.stderr is not None
        lines = [process.stderr.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        process.stderr.read()
    assert "warning: whoever reaches 0.0.0.0" in lines[2]


def test_ctrl_c_is_heard_while_the_server_starts(tmp_path: Path) -> None:
    with command(tmp_path) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.stderr.read()
    assert process.returncode == 0
