"""A browser for the tests of pages: one for all of them, with nothing in it between two."""

import importlib.util
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.browser.chromium import Browser


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Browser]":
    """Headless Chromium; without one the tests fail, and with NO_BROWSER=1 they are skipped."""
    if os.environ.get("NO_BROWSER") == "1":
        pytest.skip("NO_BROWSER=1: tests in a browser are left out")
    if importlib.util.find_spec("selenium") is None:
        pytest.fail("no selenium: pip install -e '.[dev]', or set NO_BROWSER=1", pytrace=False)
    from tests.browser.chromium import Browser, missing

    if lacking := missing():
        pytest.fail(lacking, pytrace=False)
    with Browser(tmp_path_factory.mktemp("downloads")) as browser:
        yield browser
