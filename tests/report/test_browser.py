"""A report in headless Chromium: its console stays empty, it asks no network, and axe-core is content.

It needs Chromium, its driver (Debian: chromium, chromium-driver) and selenium; ``DLCLI_AXE`` names the
axe.min.js that ``.ci/fetch-axe`` fetches.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dlcli.cli import main

pytestmark = pytest.mark.browser
WIDTHS = {"phone": 360, "desktop": 1280}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
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


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The page of a run of photos, and of two runs side by side."""
    from tiny_data import write_photos

    root = tmp_path_factory.mktemp("browser")
    data = write_photos(root / "photos", ("<script>alert(1)</script>", "green", "red"), per_class=12)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name in ("one", "two"):
            train = ["train", "-m", "linear", "-d", str(data), "--img-size", "16", "--epochs", "2"]
            assert main([*train, "--set", "fit.min_steps=0", "--quiet", "--name", name]) == 0
        assert main(["eval", "one", "--quiet"]) == 0
        assert main(["report", "one", "two"]) == 0
    return [root / "runs" / "one" / "report.html", root / "runs" / "report.html"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_a_page_opens_without_a_word_on_the_console(
    browser: Any, pages: list[Path], width: int, scheme: str
) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for page in pages:
        browser.get(page.as_uri())
        assert browser.get_log("browser") == []
        requests = [one["message"] for one in browser.get_log("performance")]
        assert not [text for text in requests if '"url":"http' in text]
        # The page never scrolls sideways; wide tables do, in their own place.
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") == (scheme == "light")
        for violation in _violations(browser):
            pytest.fail(f"{page.name}: {violation}")


def _violations(browser: Any) -> list[str]:
    """What axe-core finds, where ``DLCLI_AXE`` names it."""
    file = os.environ.get("DLCLI_AXE")
    if not file:
        return []
    browser.execute_script(Path(file).read_text(encoding="utf-8"))
    found = browser.execute_async_script("axe.run().then(arguments[0])")["violations"]
    return [f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]}" for one in found]


def test_the_keyboard_reaches_the_content_and_opens_details(browser: Any, pages: list[Path]) -> None:
    keys = pytest.importorskip("selenium.webdriver").Keys
    browser.get(pages[0].as_uri())
    browser.switch_to.active_element.send_keys(keys.TAB)
    assert browser.switch_to.active_element.get_attribute("href").endswith("#content")
    summary = browser.find_element("css selector", "details > summary")
    summary.send_keys(keys.ENTER)
    assert browser.execute_script("return document.querySelector('details').open")


def test_everything_is_printed(browser: Any, pages: list[Path]) -> None:
    """Also what is folded on the screen."""
    browser.get(pages[0].as_uri())
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    heights = "return [...document.querySelectorAll('details, details > summary')].slice(0, 2).map"
    whole, summary = browser.execute_script(f"{heights}(one => one.getBoundingClientRect().height)")
    assert whole > 2 * summary
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
