"""The whole way through the page, in a browser, with SmolLM2: rows, run, stop, go on, report."""

import json
import re
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from greater_fast.examples.tasks import generate
from greater_fast.model.smollm2 import SMOLLM2
from greater_fast.runs.directory import read_run
from greater_fast.ui.session import Session
from tests.unit.ui.serving import served

if TYPE_CHECKING:
    from tests.browser.chromium import Browser

pytestmark = [pytest.mark.ui, pytest.mark.model]
WIDTHS = (390, 768, 1280)
# A line of gradio's client about its own, and not of the page.
_OF_GRADIO = "Method not implemented."
_HOSTILE = "<img src=x onerror='document.title=1'>{{value}}${value}"

_CUT_OFF = """
return [...document.querySelectorAll(".html-container *")]
    .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth)
    .map(e => e.outerHTML.slice(0, 80));
"""

_PART_OF_THE_WIDTH = """
const [drawn, around] = ["#curve svg", "#curve"].map(name => document.querySelector(name));
return drawn.getBoundingClientRect().width / around.getBoundingClientRect().width;
"""
_AT_REST = """
document.head.appendChild(document.createElement("style")).textContent =
    "* { transition: none !important; }";
"""
_HEIGHTS = """
return [...document.querySelectorAll(arguments[0])].map(e => e.getBoundingClientRect().height);
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return Session(tmp_path_factory.mktemp("page") / "runs")


@pytest.fixture(scope="module")
def address(session: Session) -> Iterator[str]:
    with served(session) as address:
        yield address


@pytest.fixture
def page(browser: "Browser", address: str) -> "Browser":
    """The page just opened, and its form there."""
    browser.show_as(1280)
    browser.open(address)
    browser.show_as(1280)
    until(lambda: shown(browser, "#start"))
    return browser


def until(true: Callable[[], Any], seconds: float = 600) -> Any:
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)
    return value


def shown(page: "Browser", selector: str) -> str:
    """The text of the first such element; nothing where there is none."""
    text: str = page.js(
        "return document.querySelector(arguments[0])?.textContent.trim() ?? ''", selector
    )
    return text


def click(page: "Browser", selector: str) -> None:
    until(lambda: page.js("return !document.querySelector(arguments[0]).disabled", selector))
    page.driver.find_element("css selector", selector).click()


def open_tab(page: "Browser", name: str) -> None:
    page.driver.find_element(
        "xpath", f"//button[@role='tab' and normalize-space()='{name}']"
    ).click()


def fill(page: "Browser", name: str, value: object) -> None:
    from selenium.webdriver.common.keys import Keys

    field = page.driver.find_element("css selector", f"#{name} input, #{name} textarea")
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(str(value))
    field.send_keys(Keys.TAB)


def drop(page: "Browser", path: Path) -> None:
    page.driver.find_element("css selector", "#data input[type=file]").send_keys(str(path))


def is_calm(page: "Browser", address: str) -> None:
    """Nothing was logged as wrong, and nothing asked of another server."""
    assert [line for line in page.errors() if _OF_GRADIO not in line] == []
    assert [url for url in page.requests() if not url.startswith((address, "blob:"))] == []


def fits_every_width(page: "Browser") -> None:
    for width in WIDTHS:
        page.show_as(width, dark=width == 768)
        assert page.too_wide() == []
        assert page.js(_CUT_OFF) == []
    page.show_as(1280)


@pytest.mark.usefixtures("smollm2")
def test_from_a_file_to_a_report(
    page: "Browser", address: str, session: Session, tmp_path: Path
) -> None:
    data = tmp_path / "sums.jsonl"
    rows = generate("multistep_arithmetic", 12, 0, 1)
    data.write_text("\n".join(json.dumps({"problem": r.question, "gold": r.answer}) for r in rows))

    # The rows are looked at as soon as they are dropped.
    fill(page, "model", SMOLLM2)
    drop(page, data)
    until(lambda: "what it is" in shown(page, "#seen"))
    seen = shown(page, "#seen")
    for part in ("12 rows were read", "gold", rows[0].question, "train: 6 of 12 rows", "K/V pool"):
        assert part in seen
    fits_every_width(page)

    # A run goes on, whoever looks: a page that is opened anew shows it.
    settings = {"steps": 10, "num_train": 4, "num_dev": 2, "max_new_tokens": 8}
    for name, value in settings.items():
        fill(page, name, value)
    click(page, "#start")
    until(lambda: shown(page, "#headline"))
    page.open(address)
    until(lambda: re.search("[1-9] of 10 steps done", shown(page, "#headline")))

    # It is stopped, and goes on, for one step more than was planned.
    run = session.running
    assert run is not None
    assert page.js("return document.querySelector('#start').disabled")
    click(page, "#stop")
    until(lambda: "interrupted" in shown(page, "#headline"))
    assert len(page.js("return [...document.querySelectorAll('#curve polyline')]")) == 2
    assert page.js(_PART_OF_THE_WIDTH) > 0.8
    num_steps = 11
    fill(page, "more-steps", num_steps)
    click(page, "#resume")
    until(lambda: "all steps done" in shown(page, "#headline"), 240)
    known = read_run(run)
    assert len(known["steps"]) == num_steps
    best = page.js(
        "const best = document.querySelector('#best .prompt').cloneNode(true);"
        "best.querySelectorAll('del').forEach(e => e.remove()); return best.textContent"
    )
    assert best.strip() == known["result"]["prompt"]
    assert len(page.js("return [...document.querySelectorAll('#steps-done tbody tr')]")) == (
        num_steps
    )
    fits_every_width(page)

    # Its report is read, and all of it downloaded.
    open_tab(page, "Report")
    frame = until(lambda: page.driver.find_elements("css selector", "#report iframe"))[0]
    page.driver.switch_to.frame(frame)
    until(lambda: page.js("return document.body.textContent").find(SMOLLM2) >= 0)
    page.driver.switch_to.default_content()
    folder = {"behavior": "allow", "downloadPath": str(tmp_path)}
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", folder)
    click(page, "#report a[download]")
    archive = tmp_path / f"{run.name}.zip"
    until(archive.exists)
    names = zipfile.ZipFile(archive).namelist()
    assert {f"{run.name}/{name}" for name in ("run.json", "result.json", "report.html")} <= {*names}
    is_calm(page, address)


def test_what_cannot_work_is_said_and_no_markup_of_data_is_the_pages(
    page: "Browser", address: str, session: Session, tmp_path: Path
) -> None:
    before = session.runs()
    fill(page, "model", "no/such/model")
    data = tmp_path / "rows.jsonl"
    lines = [{"question": f"{_HOSTILE} {i}", "answer": str(i)} for i in range(6)]
    data.write_text("\n".join(map(json.dumps, lines)))
    drop(page, data)
    until(lambda: shown(page, "#seen .problem"))
    assert f"{_HOSTILE} 0" in shown(page, "#seen")
    assert page.js("return document.querySelectorAll('#seen img').length") == 0
    dropped = page.driver.find_element("css selector", "#data")
    assert data.stem in dropped.text
    links = dropped.find_elements("css selector", "a")  # which would be answered with 403
    assert [link.text for link in links if link.is_displayed()] == []

    # Buttons stand beside each other as one row, on a phone as well.
    page.js(_AT_REST)  # sizes are animated: on the way they may be anything
    for width in (360, *WIDTHS):
        page.show_as(width)
        assert len({*page.js(_HEIGHTS, "#look, #start")}) == 1
        assert page.too_wide() == []

    # The run's process says what is wrong in its own words.
    click(page, "#start")
    until(lambda: "no/such/model" in shown(page, "#headline"))
    assert "Traceback" not in shown(page, "#headline")
    until(lambda: session.running is None)
    assert session.runs()[1:] == before

    # What is missing is said before any process is begun.
    open_tab(page, "Set up")
    fill(page, "prompt", " ")
    click(page, "#start")
    until(lambda: "no prompt" in shown(page, "#problem"))
    assert page.driver.title == "greater_fast"
    is_calm(page, address)
