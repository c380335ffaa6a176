"""The report in a real browser: nothing fails, leaves, runs, or hangs over the edge."""

from pathlib import Path

import pytest

from greater_fast.report import write_report
from tests.browser.chromium import Browser
from tests.unit.report.made_up import write_run

HOSTILE = (
    "</style></title><script>document.title='run'</script><img src=http://example.org/x.png "
    "onerror=\"document.title='run'\"><svg onload=\"document.title='run'\"></svg>"
    "<iframe srcdoc='x'></iframe><style>*{display:none}</style><meta http-equiv=refresh content=0>"
)
WIDE = "x" * 400 + " \u202e" + "思" * 200 + " " + "שלום " * 20 + "\t" * 40
WIDTHS = (360, 800, 1400)
# Of every text that is shown: WCAG's contrast of its colour with the first background behind it.
CONTRAST = """
const luminance = rgb => rgb.map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
const parsed = color => (color.match(/[\\d.]+/g) ?? []).map(Number);
const behind = e => {
    for (; e; e = e.parentElement) {
        const color = parsed(getComputedStyle(e).backgroundColor);
        if (color.length === 3 || color[3] === 1) return color.slice(0, 3);
    }
    return [255, 255, 255];
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const found = {};
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const e = node.parentElement, style = getComputedStyle(e);
    if (!node.textContent.trim() || style.visibility === "hidden") continue;
    const color = parsed(e.closest("svg") ? style.fill : style.color).slice(0, 3);
    const [a, b] = [luminance(color), luminance(behind(e))].sort((x, y) => y - x);
    const name = `${e.tagName}.${e.getAttribute("class") ?? ""}`;
    found[name] = Math.min(found[name] ?? 99, (a + 0.05) / (b + 0.05));
}
return found;
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    plain = write_run(folder / "plain", num_steps=12, num_rows=20, metric="numeric")
    hostile = write_run(
        folder / "hostile", text=lambda own: f"{own} {HOSTILE} {WIDE}", models=("a" * 200, "b")
    )
    bare = write_run(folder / "bare", num_steps=0, changes=False)
    (bare / "result.json").unlink()
    runs = {"plain": [plain], "hostile": [hostile], "several": [plain, bare, hostile]}
    for name, own in runs.items():
        write_report(own, folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in runs}


@pytest.fixture(params=["plain", "hostile", "several"])
def page(request: pytest.FixtureRequest, pages: dict[str, Path], browser: Browser) -> Browser:
    browser.show_as(800)
    browser.open(pages[request.param])
    return browser


def open_all(page: Browser) -> None:
    page.js("document.querySelectorAll('details').forEach(one => { one.open = true; })")


def test_nothing_fails_leaves_or_runs(page, pages):
    open_all(page)
    assert page.errors() == []
    assert [url.rpartition("/")[0] for url in page.requests()] == [pages["plain"].parent.as_uri()]
    assert page.js("return document.title").endswith("report of greater_fast")
    assert page.js("return document.querySelectorAll('script, iframe, img, [onerror]').length") == 0


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_is_as_wide_as_its_window(page, width):
    """Also with all that opens open; what it shows stays in the page, and is not cut off."""
    for dark in (False, True):
        page.show_as(width, dark=dark)
        assert page.too_wide() == []
        open_all(page)
        assert page.too_wide() == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_can_be_read(page, dark):
    page.show_as(1400, dark=dark)
    open_all(page)
    contrasts = page.js(CONTRAST)
    assert len(contrasts) > 15
    assert {name: ratio for name, ratio in contrasts.items() if ratio < 4.5} == {}
    paper = page.js("return getComputedStyle(document.body).backgroundColor")
    assert (int(paper.removeprefix("rgb(").partition(",")[0]) < 60) == dark


def test_letters_of_figures_are_large_enough_on_a_phone(page):
    page.show_as(360)
    sizes = page.js(
        "return [...document.querySelectorAll('svg text')].map(e => ["
        "parseFloat(getComputedStyle(e).fontSize), e.getScreenCTM()])"
        ".map(([size, at]) => size * Math.hypot(at.a, at.b))"  # some are turned
    )
    assert min(sizes) >= 9


def test_the_keyboard_reaches_all_that_opens(browser, pages):
    browser.show_as(800)
    browser.open(pages["plain"])
    open_all(browser)
    reached = list(browser.tabbed_through())
    tags = [at["tag"] for at in reached]
    assert all(at["visible"] for at in reached)
    for tag in ("summary", "a"):
        in_page = f"return document.querySelectorAll('main {tag}, .skip:is({tag})').length"
        assert tags.count(tag) == browser.js(in_page)
    assert reached[0]["text"] == "Skip to the report"


def test_the_keyboard_opens_a_row_with_both_reasonings(browser, pages):
    browser.show_as(800)
    browser.open(pages["plain"])
    browser.js("document.querySelector('details.row:not([open]) > summary').focus()")
    row = "document.activeElement.closest('details')"
    assert not browser.js(f"return {row}.open")
    browser.press(" ")
    assert browser.js(f"return {row}.open")
    shown = browser.js(f"return {row}.innerText")
    assert "initial reasoning" in shown
    assert "new reasoning" in shown
