"""What a notebook shows of a run: the result as a table with a curve, and progress meanwhile."""

import dataclasses
import importlib.util
import math
import sys
from html.parser import HTMLParser
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from greater_fast.runs import progress
from greater_fast.runs.evaluation import Evaluation, RowRecord, compare
from greater_fast.runs.notebook import curve_svg
from greater_fast.runs.progress import told
from greater_fast.runs.result import PromptResult, Result
from greater_fast.search.nouns import Step
from tests.waiting import until

NASTY = "</td><script>alert(1)</script><img src=x onerror='a()'>\" & \x1b[2J \u202e ]]> <!--"


def step(number: int, objective: float, prompt: str = "p", changed: bool = True) -> Step:
    return Step(
        step=number,
        index=0,
        grows=False,
        prompt=prompt,
        prompt_ids=(1,),
        objective=objective,
        error_rate=0.5,
        candidate_ids=(),
        candidate_top_k=10,
        trials=(),
        changed=changed,
    )


def measured(prompt: str, ids: tuple[int, ...], correct: str | None) -> PromptResult:
    rows = tuple(RowRecord("q", "g", "p", c == "1", "r") for c in correct or "")
    return PromptResult(prompt, ids, 0.5, 0.5, dev=Evaluation(prompt, rows) if rows else None)


def made(prompt: str = "Think.", dev: str | None = "1101", **fields: Any) -> Result:
    best, baseline = measured(prompt, (1,), dev), measured("Old.", (2,), dev and "0100")
    values: dict[str, Any] = {
        "best": best,
        "baseline": baseline,
        "finalists": (best, baseline),
        "steps": (step(0, 0.4), step(1, 0.3, prompt), step(2, 0.3, prompt, changed=False)),
        "stopped": "all steps done",
        "extractor": "",
        "notes": (),
        "run_dir": Path("runs/a"),
        "dev_comparison": compare(best.dev, baseline.dev) if best.dev and baseline.dev else None,
    }
    return Result(**{**values, **fields})


class Page(HTMLParser):
    """Tags, in order, and texts; every tag must be closed where it was opened."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError("a comment")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError("a declaration")


def html_of(result: Result) -> str:
    return result._repr_html_()


def test_a_result_is_a_table_with_a_curve() -> None:
    page = Page(html_of(made()))
    text = " ".join(page.texts)
    for part in ("Think.", "Old.", "75.0% [30.1, 95.4]", "25.0% [4.6, 69.9]", "0.5000", "runs/a"):
        assert part in text
    assert made().summary in text
    kinds = [tag for tag, _ in page.tags]
    assert kinds.count("tr") == 3
    assert kinds.count("circle") == 2  # accepted changes
    (svg,) = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert svg["role"] == "img"
    assert svg["aria-label"] == "objective: 0.5000 at the start, 0.3000 after 3 steps"


def test_the_curve_is_drawn_to_scale() -> None:
    page = Page(curve_svg(1.0, [step(0, 0.5), step(1, 0.0)]))
    (line,) = [attributes for tag, attributes in page.tags if tag == "polyline"]
    assert line["points"] == "8.0,8.0 240.0,60.0 472.0,112.0"


@pytest.mark.parametrize("steps", [(), (step(0, math.nan),)])
def test_no_curve_without_steps(steps: tuple[Step, ...]) -> None:
    assert "<svg" not in html_of(made(steps=steps))


def test_steps_that_are_not_finite_are_left_out() -> None:
    page = Page(html_of(made(steps=(step(0, 0.4), step(1, math.inf), step(2, 0.2)))))
    assert [tag for tag, _ in page.tags].count("circle") == 2


def test_what_was_not_measured_is_a_dash() -> None:
    assert Page(html_of(made(dev=None))).texts.count("–") == 4


def test_a_prompt_is_no_markup() -> None:
    plain, nasty = Page(html_of(made())), Page(html_of(made(NASTY, run_dir=Path(NASTY))))
    assert nasty.tags == plain.tags
    assert not any(c in html_of(made(NASTY)) for c in "\x1b\u202e")


@given(st.text(st.characters(exclude_categories=[])))
def test_no_text_is_markup(text: str) -> None:
    named = made(text, stopped=text, run_dir=Path("a" + text.replace("\0", "")))
    assert Page(html_of(named)).tags == Page(html_of(made())).tags


def test_a_terminal_sees_a_few_lines() -> None:
    assert repr(made()) == str(made())
    assert repr(made()).splitlines() == [
        made().summary,
        "best prompt: Think.",
        "run directory: runs/a",
    ]
    assert "\x1b" not in repr(made(NASTY))


def test_a_result_can_be_changed_and_compared_as_before() -> None:
    assert dataclasses.replace(made(), notes=("a",)) != made()
    assert made() == made()


def shown_in_a_notebook(monkeypatch: pytest.MonkeyPatch, widgets: bool) -> list[Any]:
    """What would be displayed, by modules with the calls that rich makes."""
    displayed: list[Any] = []

    class Output:
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...
        def clear_output(self, wait: bool = False) -> None: ...

    def display(what: Any) -> None:
        displayed.append(what)

    for name in ("IPython", "IPython.display", *(["ipywidgets"] if widgets else [])):
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(sys.modules["IPython.display"], "display", display, raising=False)
    if widgets:
        monkeypatch.setattr(sys.modules["ipywidgets"], "Output", Output, raising=False)
    monkeypatch.setattr(
        progress, "Console", lambda **given: Console(**given, force_jupyter=True, width=200)
    )
    return displayed


def test_progress_in_a_notebook_is_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    displayed = shown_in_a_notebook(monkeypatch, widgets=True)
    with told(True, num_steps=4) as teller:
        teller.keep("to go: <b>3 h</b> [bold]")
        teller.step(step(1, 0.25, "<img src=x onerror=a()> [red]\x1b[2J"))
        until(
            lambda: "2/4" in "".join(str(getattr(d, "html", "")) for d in displayed),
            "the bar is drawn",
        )
    assert capsys.readouterr() == ("", "")
    pages = [shown.html for shown in displayed if hasattr(shown, "html")]
    texts = "".join("".join(Page(page).texts) for page in pages)
    assert {tag for page in pages for tag, _ in Page(page).tags} <= {"pre", "span"}
    for part in ("to go: <b>3 h</b> [bold]", "objective 0.2500", "2/4", "<img src=x onerror=a()>"):
        assert part in texts
    assert "\x1b" not in "".join(pages)


def test_progress_in_a_notebook_without_widgets_is_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    displayed = shown_in_a_notebook(monkeypatch, widgets=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with told(True, num_steps=4) as teller:
        teller.step(step(1, 0.25, "Think."))
    assert capsys.readouterr().err == "greater-fast: step 2 of 4: objective 0.2500, 'Think.'\n"
    assert displayed == []
