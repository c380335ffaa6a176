"""The page as a whole: complete, closed, the same each time, small, and safe to open."""

import json
import re
import shutil
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from greater_fast.report import figures, write_report
from greater_fast.report.candidates import outcomes
from greater_fast.report.run_view import read_run_view
from greater_fast.runs.input import InputError
from tests.unit.report.made_up import INITIAL, change, write_run

HOSTILE = (
    "</style></textarea></title><script>alert(1)</script><img src=x onerror=alert(1)>"
    "<a href='javascript:alert(1)'>x</a>\" onmouseover=\"alert(1) ' --> ]]> {{ 7*7 }} {% raw %}"
)
CONTROL = "\x1b[2J\x07\u202egnp.exe\u202c\x00\x9b1;31m\ud800 \u2028"
ODD = [
    HOSTILE,
    CONTROL,
    "שלום עולם",
    "مرحبا بالعالم",
    "逐步思考再给出答案",
    "e\u0301" * 30,
    "\U0001d518🦊\u200d",
]


def test_a_page_says_first_what_was_gained(page, tmp_path):
    found = page(write_run(tmp_path / "run"))
    first = found.words.partition("What was gained")[0]
    assert "The new prompt is better +12.0 points 95% interval +2.0 to +22.0" in first
    assert "On 6 rows never seen" in first
    assert [a["id"] for a in found.all("section")] == [
        f"run-1-{name}"
        for name in ("gain", "prompt", "search", "candidates", "rows", "cost", "settings")
    ]
    for expected in (INITIAL, "5 rows right with the new prompt alone", "p = 0.010 (McNemar)"):
        assert expected in found.words
    assert "2 accepted changes" in found.words
    assert [a.get("class") for a in found.all("tbody")].count("changed") == 2


def test_steps_are_counted_from_1(page, tmp_path):
    found = page(write_run(tmp_path / "run", num_steps=3))
    assert re.findall(r"Step (\d+) · place", found.words) == ["1", "3"]
    assert re.findall(r"(\d+) place \d", found.words) == [n for n in "123" for _ in range(3)]
    axes = found.source.split('<svg class="figure" role="img" aria-label="Objective by step')[1]
    below = re.findall(r">\s*(\d+)\s*</text>", axes.partition("</svg>")[0])
    assert below == ["1", "2", "3"]


def test_headings_have_no_gap_and_every_link_has_its_place(page, tmp_path):
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "other", changes=False)
    for runs in ([one], [one, other]):
        found = page(*runs)
        levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch(r"h[1-6]", tag)]
        assert levels.count(1) == 1
        assert all(b <= a + 1 for a, b in zip([0, *levels], levels, strict=False))
        ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        referred = re.findall(r'(?:href="#|url\(#|labelledby=")([^")]+)', found.source)
        assert referred
        assert set(referred) <= set(ids)


def test_nothing_leaves_the_page_and_nothing_runs_in_it(page, tmp_path):
    found = page(write_run(tmp_path / "run"))
    policy = next(m["content"] for m in found.all("meta") if "http-equiv" in m)
    assert policy.split("; ") == [
        *("default-src 'none'", "style-src 'unsafe-inline'", "img-src data:"),
        *("base-uri 'none'", "form-action 'none'"),
    ]
    assert not {"script", "iframe", "object", "form", "base", "img"} & {t for t, _ in found.tags}
    addresses = re.findall(r"(?:https?:)?//[\w.]+", found.source)
    assert addresses == []


def test_every_figure_says_what_it_shows(page, tmp_path):
    found = page(write_run(tmp_path / "run"))
    figures = found.all("svg")
    assert len(figures) == 5
    assert all(f["role"] == "img" and len(f["aria-label"]) > 20 for f in figures)
    assert "Objective by step: from 0.800 to 0.788 in 4 steps, 2 accepted changes" in [
        figure["aria-label"] for figure in figures
    ]
    assert not re.search(r"#ab[0-9a-f]{2}cd", found.source), "a colour is not the page's"


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_text_of_others_is_text(page, tmp_path, text):
    """Wherever a run has text, hostile text makes the same tags as harmless text does."""
    settings = {"num_steps": 2, "num_rows": 3, "models": ("a", "b")}
    plain = page(write_run(tmp_path / "plain", **settings))
    odd = page(write_run(tmp_path / "odd", **settings, text=lambda own: f"{own} {text}"))
    shape = [[(t, sorted(a)) for t, a in p.tags if t not in ("ins", "del")] for p in (plain, odd)]
    is_alike = shape[0] == shape[1]
    assert is_alike, "text became tags"  # of thousands of tags, a difference takes minutes to show
    assert not any(name.startswith("on") for _, attributes in odd.tags for name in attributes)
    shown = "".join(c if c.isprintable() else " " for c in text).split()
    assert all(word in odd.text for word in shown)
    allowed = set("\n\u200d")
    assert all(c.isprintable() or c in allowed for c in odd.source)


def test_names_of_folders_models_tokens_and_settings_are_text_too(page, tmp_path):
    run = write_run(tmp_path / "<b>bold")
    change(run / "run.json", model=HOSTILE, config={"<i>x": HOSTILE, "steps": 4}, extractor=[1])
    steps = (run / "steps.jsonl").read_text().replace(" word1", "<u>'").replace("select", "<s>")
    (run / "steps.jsonl").write_text(steps)
    (run / "traceback.txt").write_text(f"Traceback (most recent call last):\n{HOSTILE}")
    found = page(run)
    assert not {"b>bold", "i", "u", "s", "script", "img"} & {tag for tag, _ in found.tags}
    for expected in ("<b>bold", "<i>x", "<u>'", "<s>", "{{ 7*7 }}"):
        assert expected in found.words


def test_the_same_run_gives_the_same_bytes(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run")
    outs = [tmp_path / "a.html", tmp_path / "b.html"]
    write_report([run], outs[0])
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "axes.labelpad", 30.0)  # as a user's own file does
    write_report([run], outs[1])
    assert outs[0].read_bytes() == outs[1].read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "b.html", "run"]


def test_a_hundred_steps_of_fifty_rows_are_under_two_megabytes(page, tmp_path):
    long = "This is what the model wrote, word by word, until it came to its end. " * 80
    run = write_run(tmp_path / "run", num_steps=100, num_rows=50, text=lambda own: f"{own} {long}")
    found = page(run)
    assert found.num_bytes < 2_000_000
    assert "characters left out" in found.words
    assert "50 accepted changes" in found.words


def test_of_what_is_never_small_less_is_shown_and_told(page, tmp_path):
    huge = "\U0001d518" * 3000  # four bytes each
    runs = [
        write_run(tmp_path / str(n), num_steps=100, num_rows=90, text=lambda own: own + huge)
        for n in range(3)
    ]
    found = page(*runs)
    assert found.num_bytes < 2_000_000
    assert re.search(r"\d+ more rows left out here", found.words)
    assert "later steps left out here" in found.words
    assert "later changes left out here" in found.words


def test_long_runs_and_many_are_small_too(page, tmp_path):
    runs = [write_run(tmp_path / "long", num_steps=3000, num_rows=50)]
    runs += [write_run(tmp_path / str(n), num_steps=100, num_rows=50) for n in range(11)]
    assert page(*runs).num_bytes < 2_000_000


def test_figures_of_a_long_run_are_small(tmp_path):
    view = read_run_view(write_run(tmp_path / "long", num_steps=3000, num_rows=3), 0)
    drawn = [figures.course([view], "objective"), figures.course([view], "error")]
    drawn += [figures.scatter(view, outcomes(view)), figures.seconds(view)]
    assert [len(svg) > 1000 for svg in drawn] == [True] * 4
    assert sum(map(len, drawn)) < 250_000
    assert all("font-family" not in svg for svg in drawn), "letters are the page's"


@pytest.mark.parametrize(
    ("of_initial", "of_new", "words"),
    [
        ({}, {}, "on the development rows none that the search found did better"),
        ({}, {"dev": None}, "stays so far: not all that the search found have been measured"),
        ({"judged": 0.5}, {"judged": 0.4, "dev": None}, "stays: the judge chose it"),
        (
            {"judged": 0.5},
            {"judged": None},
            "so far: not all that the search found have been judged",
        ),
    ],
)
def test_why_the_initial_prompt_stays(page, tmp_path, of_initial, of_new, words):
    run = write_run(tmp_path / "run")
    result = json.loads((run / "result.json").read_text())
    first, new = {**result["baseline"], **of_initial}, {**result["best"], **of_new}
    change(run / "result.json", best=first, baseline=first, finalists=[first, new])
    assert words in page(run).words


def test_several_runs_stand_side_by_side(page, tmp_path):
    runs = [write_run(tmp_path / f"seed{n}", changes=n != 1) for n in range(3)]
    change(runs[2] / "run.json", config={"seed": 7, "steps": 4})
    found = page(*runs)
    first = found.words.partition("Where their settings differ")[0]
    assert "3 runs side by side: 2 with a gain beyond chance" in first
    assert first.count("The new prompt is better") == 2
    assert "Nothing was gained" in first
    assert "0.0 prompt kept" in first
    assert "run 2: 0.0 points" in " ".join(f["aria-label"] for f in found.all("svg"))
    assert [a["id"] for a in found.all("section") if a.get("class") == "run"] == [
        *("run-1", "run-2", "run-3"),
    ]


def test_a_metric_between_0_and_1_is_shown_as_what_it_is(page, tmp_path):
    found = page(write_run(tmp_path / "run", metric="numeric"))
    assert "Better with the new prompt" in found.words
    assert "(sign flips)" in found.words
    assert "5 rows better with the new one" in found.words
    assert re.search(r"Initial prompt 0\.\d\d ", found.words)


def test_several_models_are_shown_each(page, tmp_path):
    found = page(write_run(tmp_path / "run", models=("one", "two")))
    assert "Models one and two" in found.words
    assert "test: one 33.3%, two 33.3%" in found.words
    assert "Model two" in found.words


FILES = ("run.json", "steps.jsonl", "result.json", "rows.jsonl", "state.json", "examples.jsonl")


@pytest.mark.parametrize("missing", FILES)
def test_a_run_without_one_of_its_files_is_shown(page, tmp_path, missing):
    run = write_run(tmp_path / "run")
    (run / missing).unlink(missing_ok=True)
    found = page(run)
    told = {
        "run.json": "there is no run.json",
        "steps.jsonl": "nothing for: Search, Candidates.",
        "result.json": "Not known yet After 4 steps, the run has no result",
        "rows.jsonl": "nothing for: Rows.",
        "state.json": "The new prompt is better",
        "examples.jsonl": "do not say enough of it to repeat it",
    }
    assert told[missing] in found.words
    referred = [link["href"] for link in found.all("a")]
    assert referred == ["#report", *(f"#{s['id']}" for s in found.all("section"))]


@pytest.mark.parametrize("name", [n for n in FILES if n != "state.json"])
def test_a_file_of_anything_is_told_and_the_rest_is_shown(page, tmp_path, without_drawing, name):
    run = write_run(tmp_path / "run")
    damaged = (b"\xff\xfe{\n", b"[]\n", b'{"steps": [[\n')
    for content in (
        *damaged,
        b"",
        b"{}\n",
        b'{"config": 3, "model": {}, "best": [], "trials": 1}\n',
    ):
        (run / name).write_bytes(content)
        told = f"Damaged: {name}" in page(run).words
        assert told == (content in damaged or (content == b"" and name.endswith("json")))


@pytest.mark.parametrize(
    "value", [None, [], {}, "text", -1, 1e308, 1e99, True, float("nan"), [[1]], 10**400]
)
def test_values_of_any_type_are_read(page, tmp_path, value):
    """Each value of each file in turn is something else."""
    run = write_run(tmp_path / "run", num_steps=2, num_rows=2)
    for name in ("run.json", "result.json"):
        known = json.loads((run / name).read_text())
        (run / name).write_text(json.dumps(dict.fromkeys(known, value)))
    for name in ("steps.jsonl", "rows.jsonl", "examples.jsonl"):
        lines = [json.loads(line) for line in (run / name).read_text().splitlines()]
        odd = [{**line, key: value} for line in lines[:2] for key in line]
        (run / name).write_text("".join(json.dumps(line) + "\n" for line in odd))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page(run)


def test_a_run_that_has_not_begun_says_so(page, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"claimed": "2026", "process": 1}')
    assert "The run has not begun" in page(tmp_path / "run").words


def test_a_failed_run_says_why(page, tmp_path):
    run = write_run(tmp_path / "run")
    (run / "result.json").unlink()
    frames = 'Traceback (most recent call last):\n  File "x.py"\nMemoryError: none left\na note\n'
    (run / "traceback.txt").write_text(frames)
    words = page(run).words
    assert "The run failed before the final comparison After 4 steps, the run has no" in words
    assert "An error ended it: MemoryError: none left" in words
    assert f"to go on where it was: greater-fast resume {run}" in words


def test_a_run_that_failed_at_once_is_not_told_seven_times(page, tmp_path):
    """Of what it has not, there is one line, and no section."""
    run = write_run(tmp_path / "a run", num_steps=0)
    for name in ("result.json", "rows.jsonl", "steps.jsonl"):
        (run / name).unlink()
    change(run / "run.json", memory_plan=...)
    (run / "traceback.txt").write_text("Traceback (most recent call last):\nMemoryError: none\n")
    found = page(run)
    assert "The run failed before its first step was done" in found.words
    assert "nothing for: Gain, Search, Candidates, Rows, Time and memory." in found.words
    assert [a["id"] for a in found.all("section")] == ["run-1-prompt", "run-1-settings"]
    assert f"greater-fast resume '{run}'" in found.words
    assert "comparison" not in found.words


def test_a_run_that_ended_as_planned_is_not_to_be_gone_on_with(page, tmp_path, without_drawing):
    found = page(write_run(tmp_path / "run"))
    assert "resume" not in found.words
    assert "nothing for" not in found.words


def test_an_interrupted_run_says_so(page, tmp_path):
    run = write_run(tmp_path / "run")
    change(run / "result.json", stopped="interrupted", test_comparison=None)
    change(run / "run.json", config={"steps": 9})
    words = page(run).words
    assert "The run ended early, after 4 of 9 steps: interrupted." in words
    assert f"To go on where it ended: greater-fast resume {run}" in words
    change(run / "result.json", dev_comparison=None)
    told = "The run ended early, after 4 of 9 steps, before the final comparison: interrupted."
    assert told in page(run).words
    assert "No gain is shown on the rows it was chosen by" in words


def test_only_a_proven_gain_is_set_large(page, tmp_path, without_drawing):
    run = write_run(tmp_path / "run")
    assert {"class": "big"} in page(run).all("span")
    change(run / "result.json", test_comparison=None)
    runs = [run, write_run(tmp_path / "other", changes=False)]
    for found, times in ((page(run), 1), (page(*runs), 2)):  # of two runs in the overview as well
        assert {"class": "big"} not in found.all("span")
        assert found.words.count("No gain is shown on the rows it was chosen by") == times


def test_what_is_no_run_is_refused(tmp_path):
    for runs, message in (
        ([tmp_path], "holds no run"),
        ([tmp_path / "nowhere"], "holds no run"),
        ([], "expected 1 to 12"),
    ):
        with pytest.raises(InputError, match=message):
            write_report(runs, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_a_report_replaces_a_report_and_nothing_else(tmp_path):
    run, out = write_run(tmp_path / "run"), tmp_path / "out.html"
    write_report([run], out)
    write_report([run], out)
    page = tmp_path / "index.html"
    page.write_text("<!doctype html>\n<html lang='en'>somebody's own")
    for path, message in (
        (run / "run.json", "something else than a report"),
        (page, "something else than a report"),
        (tmp_path, "Is a directory"),
        (tmp_path / "nowhere" / "out.html", "there is no folder"),
    ):
        with pytest.raises(InputError, match=message):
            write_report([run], path)
    assert json.loads((run / "run.json").read_text())["model"] == "tiny"
    assert page.read_text().endswith("somebody's own")


def test_a_page_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    run, out = write_run(tmp_path / "run"), tmp_path / "out.html"
    write_report([run], out)
    before = out.read_bytes()
    shutil.rmtree(run)
    write_run(run, num_steps=8)
    monkeypatch.setattr("pathlib.Path.replace", _full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_report([run], out)
    assert out.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.html", "run"]


def test_who_writes_the_same_page_at_once_writes_a_whole_one(tmp_path, monkeypatch):
    """Each has written its own before the first is put in place; neither is the other's."""
    runs, out = [write_run(tmp_path / str(n), num_steps=2, num_rows=2) for n in range(2)], []
    for run in runs:
        write_report([run], tmp_path / "one.html")
        out.append((tmp_path / "one.html").read_bytes())
    both, replace, seen = threading.Barrier(2, timeout=60), Path.replace, []

    def meet(self: Path, target: Path) -> Path:
        both.wait()
        seen.append(self.read_bytes())
        both.wait()
        return replace(self, target)

    monkeypatch.setattr("pathlib.Path.replace", meet)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda run: write_report([run], tmp_path / "two.html"), runs))
    assert sorted(seen) == sorted(out)
    assert (tmp_path / "two.html").read_bytes() in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1", "one.html", "two.html"]


def _full_disk(*arguments: object) -> None:
    raise OSError(28, "No space left on device")


def test_without_its_packages_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"jinja2 and matplotlib: pip install 'greater-fast\[report"
    ):
        write_report([write_run(tmp_path / "run")], tmp_path / "report.html")
