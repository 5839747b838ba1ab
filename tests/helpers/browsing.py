"""Headless Chromium, and what axe-core finds on the page that it shows.

It needs Chromium, its driver (Debian: chromium, chromium-driver) and selenium; ``DLCLI_AXE`` names the
axe.min.js that ``.ci/fetch-for-browser`` fetches.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def chromium() -> Iterator[Any]:
    """A driver of Chromium that keeps its console and its requests; skips where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("Chromium or its driver is not on this machine")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


def show(browser: Any, url: str, *, width: int = 1280, scheme: str = "light") -> None:
    """Open a page at a width, light or dark, with all that is folded unfolded."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(url)
    browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")


def violations(browser: Any) -> list[str]:
    """What axe-core finds on the page that is shown; skips where ``DLCLI_AXE`` does not name it."""
    file = os.environ.get("DLCLI_AXE")
    if not file:
        pytest.skip("DLCLI_AXE does not name an axe.min.js: .ci/fetch-for-browser DIR fetches it")
    browser.execute_script(Path(file).read_text(encoding="utf-8"))
    found = browser.execute_async_script("axe.run().then(arguments[0])")["violations"]
    return [f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]}" for one in found]
