"""One run at a time in a process of its own: begun, watched, stopped, and found again."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from greater_fast.runs.saved.lock import FolderLock
from greater_fast.ui.form import Form
from greater_fast.ui.session import Session
from greater_fast.ui.workers import Worker
from tests.waiting import until

pytestmark = pytest.mark.ui
PYTHON = sys.executable
# It hears Ctrl-C where it waits for it alone: none comes between two steps, to be missed.
PROGRAM = """#!{python}
import json, pathlib, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
given = sys.argv[4:]
print("greater-fast: loading", file=sys.stderr, flush=True)
if "--model=bad" in given:
    sys.exit("greater-fast: no such model: bad")
pathlib.Path({ready!r}).write_text(json.dumps(given))
if signal.sigtimedwait([signal.SIGINT], 300) is not None:
    print("greater-fast: stopped", file=sys.stderr)
    sys.exit(130)
"""


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """A program in place of Python: what was asked of it, as soon as it runs."""
    ready, program = tmp_path / "ready", tmp_path / "program"
    program.write_text(PROGRAM.format(python=sys.executable, ready=str(ready)))
    program.chmod(0o755)
    monkeypatch.setattr("greater_fast.ui.session.sys.executable", str(program))

    def arguments() -> list[str]:
        until(lambda: ready.exists() and ready.read_text() != "", "the program is at work")
        given: list[str] = json.loads(ready.read_text())
        ready.unlink()
        return given

    return arguments


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = Session(tmp_path / "runs")
    yield session
    session.close()


def form(session: Session, **changes: Any) -> Form:
    data = session.uploads / "rows.jsonl"
    data.write_text("")
    return Form(**{"model": "tiny", "data": str(data), "prompt": "Think.", **changes})


def test_a_run_is_begun_and_stopped(session: Session, started: Callable[[], list[str]]) -> None:
    run = session.start(form(session, settings={"steps": 2}))
    given = started()
    assert given == form(session, settings={"steps": 2}).arguments(run)
    assert session.running == run
    assert session.runs() == [run]
    assert session.story(run).headline == "begins: loading"
    session.stop(run)
    until(lambda: session.running is None, "the run has ended")
    assert session.story(run).headline == "stopped"
    session.stop(run)  # which is nothing now


def test_a_run_is_asked_to_end_once(
    session: Session, started: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second Ctrl-C ends it at once: a button that is pressed twice would lose what was found."""
    asked: list[tuple[int, int]] = []
    run = session.start(form(session))
    for sitting in (1, 2):
        started()
        with monkeypatch.context() as patch:
            patch.setattr(os, "kill", lambda *signalled: asked.append(signalled))
            for _ in range(3):
                session.stop(run)
            assert session.close(seconds=0.01) == run
        assert [number for _, number in asked] == [signal.SIGINT] * sitting
        assert session._process is not None
        session._process.kill()
        session._process.wait()
        session.resume(run)
    started()


def test_another_sitting_of_one_process_can_be_stopped_too(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a notebook, which goes on with the run that it has ended."""
    run, asked = session.folder / "run", list[int]()
    workers: list[Worker | None] = [Worker(run, 1), None, Worker(run, 1)]
    monkeypatch.setattr("greater_fast.ui.session.worker_among", lambda runs: workers[0])
    monkeypatch.setattr(os, "kill", lambda process, number: asked.append(number))
    run.mkdir()
    for _ in range(2):
        session.stop(run)
    assert asked == [signal.SIGINT]
    workers.pop(0)
    session.story(run)  # as the page asks each second
    workers.pop(0)
    session.stop(run)
    assert asked == [signal.SIGINT] * 2
    workers[0] = None


def test_a_run_without_time_left_goes_on_with_more_of_it_alone(
    session: Session, started: Callable[[], list[str]]
) -> None:
    run = session.start(form(session))
    started()
    session.close()
    (run / "result.json").write_text(json.dumps({"stopped": "out of time"}))
    for more in ({}, {"steps": 200.0}):
        with pytest.raises(ValueError, match="minutes: those of the run are over: say how many"):
            session.resume(run, more)
    session.resume(run, {"minutes": 60.0})
    assert started() == ["resume", str(run), "--minutes=60"]


def test_what_is_said_of_a_run_that_is_closed(
    session: Session, started: Callable[[], list[str]]
) -> None:
    run = session.start(form(session))
    started()
    assert session.farewell(run) == f"the run in {run} is still ending"
    assert session.close() == run
    assert session.farewell(run) == "its run was stopped before it had begun"
    (run / "run.json").write_text(json.dumps({"prompt": "Think.", "config": {"steps": 3}}))
    assert session.farewell(run).endswith(f"it goes on with: greater-fast resume {run}")


def test_one_run_at_a_time(session: Session, started: Callable[[], list[str]]) -> None:
    run = session.start(form(session))
    started()
    for begin in (lambda: session.start(form(session)), lambda: session.resume(run)):
        with pytest.raises(ValueError, match="stop it first"):
            begin()
    assert session.runs() == [run]
    session.close()
    assert session.running is None
    assert session.start(form(session)) != run
    started()


def test_it_goes_on_with_more_steps(session: Session, started: Callable[[], list[str]]) -> None:
    run = session.start(form(session))
    started()
    session.close()
    session.resume(run, {"steps": 700000.0, "minutes": 1.5})
    assert started() == ["resume", str(run), "--steps=700000", "--minutes=1.5"]
    assert session.running == run


def test_an_error_is_told_in_its_own_words(
    session: Session, started: Callable[[], list[str]]
) -> None:
    run = session.start(form(session, model="bad"))
    until(lambda: session.running is None, "the run has ended")
    assert session.story(run).headline == "no such model: bad"


def test_a_refusal_to_go_on_is_told_before_the_result(
    session: Session, started: Callable[[], list[str]]
) -> None:
    run = session.start(form(session, model="bad"))
    (run / "run.json").write_text(json.dumps({"prompt": "a", "config": {"steps": 2}}))
    (run / "result.json").write_text(json.dumps({"summary": "Gained.", "stopped": "all done"}))
    until(lambda: session.running is None, "the run has ended")
    story = session.story(run)
    assert story.headline == "no such model: bad"
    assert story.notes[0].startswith("Gained.")


def test_a_run_that_another_process_works_on_is_found_and_stopped(
    session: Session, started: Callable[[], list[str]]
) -> None:
    """As after a page's server was killed, or where a run was begun in a terminal."""
    run = session.folder / "other"
    run.mkdir()
    (run / "run.json").write_text("{}")
    (run / ".lock").write_text(f"{os.getpid()}\n")
    assert session.running is None  # a file that was left behind is held by none
    ready = session.folder / "ready"
    program = (
        "import pathlib, signal, sys\n"
        "from greater_fast.runs.saved.lock import FolderLock\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n"
        "lock = FolderLock(pathlib.Path(sys.argv[1]))\n"
        "pathlib.Path(sys.argv[2]).touch()\n"
        "sys.exit(7 if signal.sigtimedwait([signal.SIGINT], 300) else 1)"
    )
    other = subprocess.Popen([PYTHON, "-c", program, str(run), str(ready)])
    until(ready.exists, "the other process is at work")
    assert session.running == run
    with pytest.raises(ValueError, match="the run other goes on"):
        session.start(form(session))
    assert session.close() is None  # it is not this page's
    assert session.running == run
    session.stop(run)
    assert other.wait() == 7
    assert session.running is None


def test_the_run_that_is_named_is_stopped_and_no_other(
    session: Session, started: Callable[[], list[str]]
) -> None:
    """A page may show a run that has ended while another goes on, from a terminal or a page."""
    held = session.folder / "held"
    held.mkdir()
    (held / "run.json").write_text("{}")
    lock = FolderLock(held)
    assert session.story(held).goes_on
    lock.release()
    run = session.start(form(session))
    started()
    session.stop(held)
    assert session.running == run
    assert session.story(run).goes_on
    assert not session.story(held).goes_on


def test_a_run_whose_folder_is_gone_still_goes_on(
    session: Session, started: Callable[[], list[str]]
) -> None:
    run = session.start(form(session))
    started()
    shutil.rmtree(run)
    assert session.running == run
    with pytest.raises(ValueError, match="goes on: stop it first"):
        session.start(form(session))


def test_a_process_of_another_container_gets_no_signal(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number is here that of anybody, of this process for one."""
    run = session.folder / "other"
    run.mkdir()
    (run / "run.json").write_text("{}")
    lock = FolderLock(run)
    asked: list[tuple[int, int]] = []
    with monkeypatch.context() as patch:
        patch.setattr("platform.node", lambda: "elsewhere")
        patch.setattr(os, "kill", lambda *signalled: asked.append(signalled))
        assert session.running == run
        with pytest.raises(ValueError, match="in another container or on another machine"):
            session.stop(run)
        lock.release()
        assert session.running is None
    assert asked == []


def test_a_run_that_is_killed_says_so(session: Session, started: Callable[[], list[str]]) -> None:
    run = session.start(form(session))
    started()
    assert session._process is not None
    os.kill(session._process.pid, signal.SIGKILL)
    until(lambda: session.running is None, "the run has ended")
    assert "SIGKILL" in session.story(run).headline


def test_a_run_can_be_stopped_where_the_page_is_to_ignore_ctrl_c(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a command in the background of a script is."""
    ready, package = tmp_path / "ready", tmp_path / "lib" / "greater_fast"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        f"def main():\n    import time\n    open({str(ready)!r}, 'w').close()\n    time.sleep(60)"
    )
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        session.start(form(session))
    finally:
        signal.signal(signal.SIGINT, before)
    until(ready.exists, "the program is at work")
    assert session.close() is not None
    assert session.running is None


def test_what_cannot_begin_leaves_nothing(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="no model"):
        session.start(form(session, model=""))
    monkeypatch.setattr("greater_fast.ui.session.sys.executable", "/no/such/program")
    with pytest.raises(ValueError, match="no run can be started"):
        session.start(form(session))
    assert session.runs() == []
    assert [path.name for path in session.folder.iterdir()] == ["uploads"]


def test_files_from_elsewhere_are_no_rows(session: Session, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (session.uploads / "link").symlink_to(tmp_path / "secret")
    for path in ("/etc/passwd", f"{session.uploads}/../../secret", f"{session.uploads}/link"):
        for role in ("data", "test"):
            with pytest.raises(ValueError, match="not dropped on this page"):
                session.start(form(session, **{role: path}))


def test_runs_are_found_by_name_alone(session: Session, tmp_path: Path) -> None:
    run = session.folder / "mine"
    run.mkdir()
    assert session.runs() == []
    (run / "run.json").write_text("{}")
    assert session.find("mine") == run
    for name in (None, "", "..", "../runs/mine", str(run), "uploads"):
        with pytest.raises(ValueError, match="no such run"):
            session.find(name)


def test_a_folder_that_cannot_be_had_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="another folder"):
        Session(tmp_path / "file")
