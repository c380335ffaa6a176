"""Every block of Python in the front ends' pages runs, as in tests/docs."""

from pathlib import Path

import pytest

from greater_fast.front_ends.missing import is_offered
from tests.docs.pages import ALL_BLOCKS, FRONT_ENDS
from tests.docs.running import run_python

pytestmark = pytest.mark.front_ends
PAGES = [
    page
    for page in dict.fromkeys(block.page for block in ALL_BLOCKS)
    if page.startswith(FRONT_ENDS) and is_offered(Path(page).stem)
]


@pytest.mark.parametrize("page", PAGES)
def test_python(
    page: str, place: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_python(page, place, finished_run, capsys)
