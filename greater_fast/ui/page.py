"""The page itself, of gradio's components alone: what they show and do is in the files beside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from greater_fast.api import DEFAULT_PROMPT
from greater_fast.config import CHOICES, Config
from greater_fast.ui import markup
from greater_fast.ui.curve import curve
from greater_fast.ui.form import DATA_ENDINGS, SETTINGS, Form
from greater_fast.ui.models import models_here
from greater_fast.ui.preview import preview_apart
from greater_fast.ui.session import Session
from greater_fast.ui.story import version
from greater_fast.wording import quoted

_SECONDS = 1.0  # between two looks at a run
_MINUTES = 30  # that a run takes at most, unless the user says otherwise
_QUIET = {"show_progress": "hidden", "api_visibility": "private"}
STYLE = Path(__file__).with_name("page.css")
THEME = gr.themes.Default(primary_hue="indigo").set(
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_300",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
)


def page(session: Session) -> gr.Blocks:
    """The page over the runs of a session: three tabs, and a clock that looks at the run."""
    with gr.Blocks(title="greater_fast", analytics_enabled=False) as blocks:
        gr.Markdown("# greater_fast\nA better prompt for a model, searched by gradients.")
        with gr.Tabs(selected="set up") as tabs:
            with gr.Tab("Set up", id="set up"), gr.Row():
                with gr.Column(min_width=320):
                    form, look, start, problem = _form()
                with gr.Column(min_width=320):
                    seen = gr.HTML(markup.NOTHING_SEEN, elem_id="seen")
            with gr.Tab("Run", id="run"):
                chosen, more, stop, resume, refused, shown = _run()
            with gr.Tab("Report", id="report") as report_tab:
                report = gr.HTML(elem_id="report")
        known = gr.State("")

        def start_run(*values: Any) -> list[Any]:
            try:
                run = session.start(_filled(*values))
            except ValueError as error:
                return [markup.problem(error), gr.skip(), gr.skip()]
            return ["", gr.Tabs(selected="run"), _choice(session, run.name)]

        def resume_run(name: str | None, steps: str | None, minutes: str | None) -> str:
            given = {"steps": steps, "minutes": minutes}
            try:
                session.resume(session.find(name), _numbers(given))
            except ValueError as error:
                return markup.problem(error)
            return ""

        def stop_run(name: str | None) -> str:
            try:
                session.stop(session.find(name))
            except ValueError as error:
                return markup.problem(error)
            return ""

        watch, watched = _watcher(session), [*shown, start, stop, resume, known]
        data = form[1]
        gr.on([look.click, data.upload], _look, form, seen, api_visibility="private")
        start.click(start_run, form, [problem, tabs, chosen], **_QUIET)
        stop.click(stop_run, chosen, refused, **_QUIET)
        resume.click(resume_run, [chosen, *more], refused, **_QUIET)
        ticks = gr.Timer(_SECONDS).tick
        gr.on([ticks, chosen.change], watch, [chosen, known], watched, **_QUIET)
        gr.on(
            [report_tab.select, chosen.change],
            lambda name: report_frame(session, name),
            chosen,
            report,
            **_QUIET,
        )
        blocks.load(lambda: _found(session), None, [tabs, chosen], **_QUIET)
    return blocks


def _form() -> tuple[list[Any], gr.Button, gr.Button, gr.HTML]:
    """What is asked for, in the order of `_filled`, the buttons below it, and what is wrong."""
    models = models_here()
    model = gr.Dropdown(
        models,
        value=models[0] if models else None,
        allow_custom_value=True,
        label="Model",
        info="one of this machine, or type a hub name, a folder or a GGUF file",
        elem_id="model",
    )
    data = _file("Rows to search on: JSONL, JSON, CSV or parquet", "data")
    prompt = gr.Textbox(DEFAULT_PROMPT, label="Prompt to start from", lines=2, elem_id="prompt")
    with gr.Row():
        numbers = [
            _number("steps", "Steps at most"),
            _number("num_train", "Rows to search on"),
            _number("num_dev", "Rows to choose on"),
            _number("max_new_tokens", "Tokens of reasoning"),
            gr.Number(_MINUTES, label="Minutes at most", elem_id="minutes", min_width=130),
        ]
    with gr.Accordion("Less often needed", open=False):
        metrics = [("as the gold answer, token by token", "")]
        metrics += [(name, name) for name in CHOICES["metric"] if name]
        metric = gr.Dropdown(metrics, value="", label="What an answer is worth", elem_id="metric")
        seed = _number("seed", "Seed")
        test = _file("Rows for a last test, never searched on", "test")
        question = gr.Textbox(
            label="Column of the question", placeholder="found by its name", elem_id="question"
        )
        answer = gr.Textbox(
            label="Column of the answer", placeholder="found by its name", elem_id="answer"
        )
    problem = gr.HTML(elem_id="problem")
    with gr.Row():
        look = gr.Button("Look at the rows", elem_id="look", min_width=130)
        start = gr.Button("Run", variant="primary", elem_id="start", min_width=130)
    form = [model, data, prompt, *numbers, metric, seed, test, question, answer]
    return form, look, start, problem


def _file(label: str, name: str) -> gr.File:
    return gr.File(label=label, file_types=list(DATA_ENDINGS), height=160, elem_id=name)


def _number(setting: str, label: str) -> gr.Number:
    default = getattr(Config(), setting)
    return gr.Number(default, label=label, precision=0, elem_id=setting, min_width=130)


def _filled(*values: Any) -> Form:
    """The form of the components' values."""
    model, data, prompt, *settings, test, question, answer = values
    return Form(
        model=model or "",
        data=data,
        prompt=prompt or "",
        test=test,
        question_column=question or "",
        answer_column=answer or "",
        settings=dict(zip(SETTINGS, settings, strict=True)),
    )


def _look(*values: Any) -> str:
    return markup.preview_html(preview_apart(_filled(*values)))


def _run() -> tuple[gr.Dropdown, list[gr.Textbox], gr.Button, gr.Button, gr.HTML, list[gr.HTML]]:
    """The run that is looked at, how it goes on, and what is shown in the order of `_watcher`."""
    with gr.Row():
        chosen = gr.Dropdown([], label="Run", elem_id="chosen", min_width=220)
        more = [
            gr.Textbox(
                label=f"{what} in all, when it goes on",
                placeholder="as planned",
                elem_id=f"more-{what.lower()}",
                min_width=220,
            )
            for what in ("Steps", "Minutes")
        ]
    headline = gr.HTML(elem_id="headline")
    with gr.Row():
        stop = gr.Button("Stop", variant="stop", interactive=False, elem_id="stop", min_width=130)
        resume = gr.Button("Go on", interactive=False, elem_id="resume", min_width=130)
    refused = gr.HTML(elem_id="refused")
    shown = [headline, *(gr.HTML(elem_id=name) for name in ("curve", "best", "steps-done"))]
    return chosen, more, stop, resume, refused, shown


def _watcher(session: Session) -> Callable[[str | None, str], list[Any]]:
    """What looks at the chosen run, and updates the page where anything has changed."""

    def watch(name: str | None, known: str) -> list[Any]:
        running, parts, goes_on, has_begun = session.running, [""] * 4, False, False
        run = next((folder for folder in session.runs() if folder.name == name), None)
        if run is not None:
            story = session.story(run)
            goes_on, has_begun = story.goes_on, story.initial != ""
            drawn = curve(story.steps, story.num_planned, story.start)
            told = markup.story_html(story)
            parts = [told, drawn, markup.prompt_html(story), markup.steps_html(story)]
        if running is not None and running != run:
            parts[0] = markup.elsewhere(running.name) + parts[0]
        idle = running is None
        can = [idle, goes_on, idle and has_begun]
        now = repr((parts, can))
        if now == known:
            return [gr.skip()] * 8
        return [*parts, *(gr.Button(interactive=on) for on in can), now]

    return watch


def report_frame(session: Session, name: str | None) -> str:
    """The report of a run in a frame, and a link to all of its files.

    The frame's address changes with the run: a browser loads none anew whose address is as before.
    """
    try:
        run = session.find(name)
    except ValueError:
        return "<p>No run is chosen.</p>"
    address = f"runs/{quote(run.name, safe='')}"
    source = f"{address}/report?of={version(run)}"
    return (
        f"<p><a href='{address}/report' target='_blank'>The report alone</a> · "
        f"<a href='{address}/download' download>Download the run</a></p>"
        f"<iframe class='report' src='{source}' title='Report of the run'></iframe>"
    )


def _found(session: Session) -> list[Any]:
    """What a page that is opened shows: the run that goes on, or the first tab."""
    running, runs = session.running, session.runs()
    name = running.name if running else runs[0].name if runs else None
    return [gr.Tabs(selected="run" if running else "set up"), _choice(session, name)]


def _choice(session: Session, name: str | None) -> gr.Dropdown:
    return gr.Dropdown([run.name for run in session.runs()], value=name)


def _numbers(given: dict[str, str | None]) -> dict[str, float]:
    """The numbers of fields that are not empty.

    Raises:
        ValueError: one is no number.
    """
    numbers = {}
    for name, value in given.items():
        if value and value.strip():
            try:
                numbers[name] = float(value)
            except ValueError:
                raise ValueError(f"{name}: got {quoted(value)}, expected a number") from None
    return numbers
