"""The browser of the tests sees what is wrong with a page."""

from pathlib import Path

import pytest

from tests.browser.chromium import Browser

_HEAD = "<title>page</title><meta name=viewport content='width=device-width'>"


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path):
    def open_page(body: str) -> Browser:
        page = tmp_path / "page.html"
        page.write_text(f"<!doctype html>{_HEAD}<body style='margin:0'>{body}")
        browser.show_as(360)
        browser.open(page)
        browser.show_as(360)
        return browser

    return open_page


def test_a_page_without_faults_has_none(open_page):
    page = open_page("<p>calm</p><img alt='' src='data:image/gif;base64,R0lGODlhAQABAAAAACw='>")
    assert page.errors() == []
    assert [url.rpartition("/")[2] for url in page.requests()] == ["page.html"]
    assert page.too_wide() == []


def test_errors_and_requests_are_seen(open_page):
    page = open_page("<script>nothing()</script><img alt='' src='http://example.org/a.png'>")
    assert any("nothing is not defined" in line for line in page.errors())
    assert "http://example.org/a.png" in page.requests()
    page = open_page("<p>calm again</p>")
    assert page.errors() == []


def test_what_is_too_wide_is_named(open_page):
    assert open_page("<p class=wide style='width:400px'>wide</p>").too_wide() == ["p.wide +40"]


def test_dark_and_light_are_what_the_page_is_asked_for(open_page):
    page = open_page("<style>@media (prefers-color-scheme: dark) { p { color: #fff } }</style><p>")
    for dark, color in ((True, "rgb(255, 255, 255)"), (False, "rgb(0, 0, 0)")):
        page.show_as(800, dark=dark)
        assert page.js("return getComputedStyle(document.querySelector('p')).color") == color


def test_tab_goes_from_one_to_the_next_and_sees_whether_focus_shows(open_page):
    page = open_page(
        "<a href='#a'>one</a><details><summary style='outline:none'>two</summary></details>"
    )
    found = [(at["tag"], at["text"], at["visible"]) for at in page.tabbed_through()]
    assert found == [("a", "one", True), ("summary", "two", False)]


def test_a_screenshot_is_of_the_whole_page(open_page, tmp_path):
    page = open_page("<p style='height:3000px'>long</p>")
    page.screenshot(tmp_path / "page.png")
    header = (tmp_path / "page.png").read_bytes()
    width, height = int.from_bytes(header[16:20]), int.from_bytes(header[20:24])
    assert width == 360
    assert height >= 3000
