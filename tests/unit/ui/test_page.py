"""What the page's parts hold, before any browser shows them."""

import os
import re
from pathlib import Path

import pytest

from greater_fast.ui.session import Session

pytestmark = [
    pytest.mark.ui,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # gradio's own
]


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """A session with a run, whose name is none that an address could have as it is."""
    session = Session(tmp_path / "runs")
    run = session.folder / "o'ne?"
    run.mkdir()
    (run / "log.txt").touch()
    return session


def frame(session: Session, name: str) -> str:
    from greater_fast.ui.page import report_frame

    (source,) = re.findall("<iframe [^>]*src='([^']*)'", report_frame(session, name))
    return str(source)


@pytest.mark.parametrize("file", ["run.json", "steps.jsonl", "state.json", "result.json"])
def test_a_report_is_loaded_anew_when_its_run_has_gone_on(session: Session, file: str) -> None:
    """A browser keeps what a frame shows as long as its address is the same."""
    (run,) = session.runs()
    seen = [frame(session, run.name)]
    assert seen[0].startswith("runs/o%27ne%3F/report?")
    for content in ("a", "b"):
        (run / file).write_text(content)
        time = 10**18 + len(seen)
        os.utime(run / file, ns=(time, time))
        seen.append(frame(session, run.name))
    (run / "report.html").write_text("<p>")  # written by looking at it
    (run / "log.txt").write_text("a line")
    assert frame(session, run.name) == seen[-1]
    (run / file).unlink()
    seen.append(frame(session, run.name))
    assert len({*seen}) == 3
    assert seen[-1] == seen[0]


def test_without_a_run_there_is_no_frame(session: Session) -> None:
    from greater_fast.ui.page import report_frame

    for none in (None, "", "nothing", "..", "/etc"):
        assert "iframe" not in report_frame(session, none)
