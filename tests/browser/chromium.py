"""A headless Chromium that tests steer: what a page shows, logs and asks for."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.keys import Keys

# Chromium's own calls home are off, and no name is resolved: whatever asks for more than this
# machine fails, and is seen.
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # a container's root has none
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)
_LOGS = {"browser": "ALL", "performance": "ALL"}
_BINARIES = {
    "browser": ("chromium", "chromium-browser", "google-chrome"),
    "driver": ("chromedriver",),
}


def missing() -> str | None:
    """What of browser and driver this machine lacks, for a reader; None where both are there."""
    lacking = [part for part, names in _BINARIES.items() if _found(names) is None]
    if not lacking:
        return None
    return (
        f"no {' and no '.join(lacking)} of Chromium: install both (Debian: apt-get install "
        "chromium chromium-driver), or set NO_BROWSER=1 to skip these tests"
    )


class Browser:
    """A Chromium of its own profile, without a network; `driver` is selenium's, for what is rare.

    `downloads` is the folder that pages may save files in. As a context it is ended.
    """

    def __init__(self, downloads: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = _found(_BINARIES["browser"]) or ""
        for flag in _FLAGS:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", _LOGS)
        options.add_experimental_option(
            "prefs", {"download.default_directory": str(downloads), "download.prompt": False}
        )
        # With its path given, selenium looks for no driver, and downloads none.
        service = webdriver.ChromeService(_found(_BINARIES["driver"]), log_output=os.devnull)
        self.driver = webdriver.Chrome(options, service)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *error: object) -> None:
        self.driver.quit()

    def open(self, page: Path | str) -> None:
        """Load a file or an address in a new tab; what was logged before is forgotten."""
        before = self.driver.current_window_handle
        self.driver.switch_to.new_window("tab")
        after = self.driver.current_window_handle
        self.driver.switch_to.window(before)
        self.driver.close()
        self.driver.switch_to.window(after)
        for kind in _LOGS:
            self.driver.get_log(kind)
        self.driver.get(page.as_uri() if isinstance(page, Path) else page)

    def show_as(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Give the page a size in CSS pixels, and a reader who likes it dark or light."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def js(self, body: str, *arguments: Any) -> Any:
        """What a function's body returns in the page; `arguments` are its own."""
        return self.driver.execute_script(body, *arguments)

    def errors(self) -> list[str]:
        """Lines that the page has logged as errors or warnings since the last call."""
        lines = self.driver.get_log("browser")
        return [line["message"] for line in lines if line["level"] in ("SEVERE", "WARNING")]

    def requests(self) -> list[str]:
        """Addresses that were asked for since the last call, `data:` aside: it is in the page."""
        events = (
            json.loads(line["message"])["message"] for line in self.driver.get_log("performance")
        )
        asked = (
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        )
        return [url for url in asked if not url.startswith("data:")]

    def too_wide(self) -> list[str]:
        """Elements that make the page scroll sideways, as tag, class and pixels too many."""
        wide: list[str] = self.js(_TOO_WIDE)
        return wide

    def press(self, *keys: str) -> None:
        """Press keys one after the other, wherever the focus is."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def tabbed_through(self, most: int = 2000) -> Iterable[dict[str, Any]]:
        """What Tab reaches from the page's start: tag, text and whether its focus can be seen."""
        self.js("document.activeElement.blur(); window.scrollTo(0, 0)")
        for _ in range(most):
            self.press(Keys.TAB)
            focused: dict[str, Any] | None = self.js(_FOCUSED)
            if focused is None:
                return
            yield focused

    def screenshot(self, path: Path) -> None:
        """The whole page, top to bottom, as a PNG file."""
        shot = {"format": "png", "captureBeyondViewport": True}
        taken = self.driver.execute_cdp_cmd("Page.captureScreenshot", shot)
        path.write_bytes(base64.b64decode(taken["data"]))


def _found(names: Iterable[str]) -> str | None:
    return next((path for name in names if (path := shutil.which(name))), None)


_TOO_WIDE = """
const width = document.documentElement.clientWidth;
if (document.documentElement.scrollWidth <= width) return [];
return [...document.querySelectorAll("body *")]
    .map(e => [e, Math.ceil(e.getBoundingClientRect().right - width)])
    .filter(([, by]) => by > 0)
    .map(([e, by]) => `${e.tagName.toLowerCase()}.${e.getAttribute("class") ?? ""} +${by}`);
"""
_FOCUSED = """
const e = document.activeElement;
if (!e || e === document.body || e.dataset.tabbed) return null;
e.dataset.tabbed = "yes";
const style = getComputedStyle(e);
return {
    tag: e.tagName.toLowerCase(),
    text: e.textContent.trim().slice(0, 80),
    visible: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0,
};
"""
