import pytest

from tests.unit.report.made_up import write_run

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")


def test_a_report_is_written_and_its_place_told(command, finished, tmp_path):
    out = tmp_path / "page.html"
    outcome = command("report", finished, "-o", out)
    assert (outcome.status, outcome.out) == (0, f"report: {out}\n")
    assert out.read_text().startswith("<!doctype html>")
    assert finished.name in out.read_text()


def test_a_home_folder_is_one(command, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_run(tmp_path / "run")
    outcome = command("report", "~/run", "--out=~/page.html")
    assert (outcome.status, outcome.out) == (0, f"report: {tmp_path / 'page.html'}\n")
    assert (tmp_path / "page.html").exists()


def test_runs_stand_in_the_order_in_which_they_are_named(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [write_run(tmp_path / name) for name in ("second", "first")]
    assert command("report", *runs).status == 0
    page = (tmp_path / "report.html").read_text()
    assert page.index(">second<") < page.index(">first<")


def test_what_is_no_run_is_bad_input(command, tmp_path):
    outcome = command("report", tmp_path, "-o", tmp_path / "page.html")
    assert outcome.status == 2
    assert "holds no run" in outcome.err
    assert not (tmp_path / "page.html").exists()


def test_a_file_that_is_no_report_stays(command, tmp_path):
    run = write_run(tmp_path / "run")
    before = (run / "rows.jsonl").read_bytes()
    outcome = command("report", run, "-o", run / "rows.jsonl")
    assert outcome.status == 2
    assert "something else than a report" in outcome.err
    assert (run / "rows.jsonl").read_bytes() == before
