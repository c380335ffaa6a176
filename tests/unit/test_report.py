import json

import pytest

from benchmarks import report

FIGURE = {
    "ratio": 5.0,
    "target": 4.0,
    "work": {
        "baseline": {"seconds": 10.0, "peak_memory_bytes": 3_000_000},
        "ours": {"seconds": 2.0, "peak_memory_bytes": 12_000_000},
    },
    "versions": {"torch": "2"},
    "floor": None,
}


def written(tmp_path, smoke=False, ratio=5.0):
    extra = FIGURE | {"ratio": ratio, "smoke": smoke, "device": "Some CPU (R)", "num_threads": 2}
    content = {
        "datetime": "2026-01-02T03:04:05",
        "commit_info": {"id": "0123456789"},
        "benchmarks": [{"fullname": "benchmarks/bench_step.py::test_step", "extra_info": extra}],
    }
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(content))
    return path


def test_the_page_shows_what_was_measured():
    assert report.main(["--check"]) == 0


def test_collecting_keeps_the_newest_figure_of_each_benchmark(tmp_path):
    results = tmp_path / "results"
    report.merge(results, "Some CPU (R)", 2, {"step/step": FIGURE, "other": {"text": "x"}})
    (path,) = report.collect(written(tmp_path, ratio=7.0), results)
    content = json.loads(path.read_text())
    assert path.name == "some-cpu-r-2-threads.json"
    assert content["device"] == "Some CPU (R)"
    assert content["results"]["other"] == {"text": "x"}
    step = content["results"]["step/step"]
    assert (step["ratio"], step["date"], step["commit"]) == (7.0, "2026-01-02", "0123456789")
    assert "device" not in step


def test_a_benchmark_that_failed_has_no_figure_and_keeps_none_from_the_others(tmp_path, capsys):
    path = written(tmp_path)
    content = json.loads(path.read_text())
    content["benchmarks"].insert(0, {"fullname": "benchmarks/bench_a.py::test_b", "extra_info": {}})
    path.write_text(json.dumps(content))
    (collected,) = report.collect(path, tmp_path / "results")
    assert list(json.loads(collected.read_text())["results"]) == ["step/step"]
    assert capsys.readouterr().err == "left out, as it failed: benchmarks/bench_a.py::test_b\n"


def test_figures_of_smoke_mode_are_refused(tmp_path):
    with pytest.raises(ValueError, match="smoke"):
        report.collect(written(tmp_path, smoke=True), tmp_path / "results")


def test_files_of_other_figures_are_left_alone(tmp_path):
    (tmp_path / "policies.json").write_text('{"a-model": {}}')
    assert report.render(tmp_path) == ""


def test_a_table_a_device_with_a_row_a_figure(tmp_path):
    report.collect(written(tmp_path), tmp_path / "results")
    work = {"rows": 4, "ratio": 3.0, "reference_seconds": 6.0, "seconds": 2.0}
    gpu = {"date": "2026-01-03", "commit": "fedcba9876", "text": "fast", "work": work}
    figures = {"gpu/reference": gpu, "gpu/texts": gpu | {"work": {}}}
    report.merge(tmp_path / "results", "Some GPU", None, figures)
    cpu_table, gpu_table = report.render(tmp_path / "results").split("\n\nSome GPU:\n")
    assert cpu_table.startswith("Some CPU (R), 2 threads:\n")
    assert cpu_table.splitlines()[-1] == (
        "| a whole step | released procedure | 5.00× | 4× "
        "| 10 s → 2 s; peak memory 3.0 MB → 12 MB | 2026-01-02, 0123456 |"
    )
    assert gpu_table.splitlines()[-1] == (
        "| 8B shapes: a step of 4 rows | released procedure | 3.0× | – | 6.0 s → 2.00 s "
        "| 2026-01-03, fedcba9 |"
    )


def test_tables_go_between_the_markers():
    page = f"before {report.START} old {report.STOP} after"
    new = report.with_tables(page, "| new |")
    assert new == f"before {report.START}\n\n| new |\n\n{report.STOP} after"
    assert report.with_tables(new, "| new |") == new
    with pytest.raises(ValueError, match="once each"):
        report.with_tables("no markers", "| new |")


def test_a_difference_is_found(tmp_path, monkeypatch):
    page = tmp_path / "performance.md"
    page.write_text(f"{report.START}\nstale\n{report.STOP}")
    monkeypatch.setattr(report, "PAGE", page)
    assert report.main(["--check"]) == 1
    assert "stale" in page.read_text()
    assert report.main([]) == 0
    assert report.main(["--check"]) == 0
