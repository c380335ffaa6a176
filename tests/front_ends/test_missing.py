"""An extra that installs nothing on a Python is not asked for there, by tests or by errors."""

import sys
import tomllib

import pytest
from packaging.requirements import Requirement

from greater_fast.front_ends.missing import is_offered, needs
from tests.docs.pages import ROOT

pytestmark = pytest.mark.front_ends
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("minor", [11, 12, 13, 14])
def test_what_is_offered_is_what_is_installed(monkeypatch: pytest.MonkeyPatch, minor: int) -> None:
    monkeypatch.setattr(sys, "version_info", (3, minor, 4, "final", 0))
    for extra, listed in EXTRAS.items():
        markers = [Requirement(text).marker for text in listed]
        python = {"python_version": f"3.{minor}", "python_full_version": f"3.{minor}.4"}
        is_any = any(marker is None or marker.evaluate(python) for marker in markers)
        assert is_offered(extra) == is_any, extra


@pytest.mark.parametrize("minor", [12, 13, 14])
def test_an_error_asks_for_what_helps(monkeypatch: pytest.MonkeyPatch, minor: int) -> None:
    monkeypatch.setattr(sys, "version_info", (3, minor, 4, "final", 0))
    told = str(needs("promptolution", ImportError("No module named 'promptolution'")))
    assert ("pip install 'greater-fast[promptolution]'" in told) == (minor == 12)
    expected = f"needs packages that there are none of for Python 3.{minor}: use one before 3.13"
    assert (expected in told) == (minor > 12)
    assert told.endswith("(No module named 'promptolution')")
    assert "pip install 'greater-fast[gepa]'" in str(needs("gepa", ImportError("no")))
