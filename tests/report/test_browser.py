"""Reports in headless Chromium: the console stays empty, no network is asked, axe-core finds nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import chromium, show, violations
from study_records import write_study
from tiny_data import write_photos

from dlcli.cli import main

pytestmark = pytest.mark.browser
LOOKS = [(width, scheme) for width in (360, 1280) for scheme in ("light", "dark")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from chromium()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The page of a run of photos, of two runs side by side, and of a study."""
    root = tmp_path_factory.mktemp("browser")
    data = write_photos(root / "photos", ("<script>alert(1)</script>", "green", "red"), per_class=12)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name in ("one", "two"):
            train = ["train", "-m", "linear", "-d", str(data), "--img-size", "16", "--epochs", "2"]
            assert main([*train, "--set", "fit.min_steps=0", "--quiet", "--name", name]) == 0
        assert main(["eval", "one", "--slice", "pixels", "--quiet"]) == 0
        assert main(["report", "one", "two"]) == 0
        write_study(root)
        assert main(["report", "S"]) == 0
    return [root / "runs" / name for name in ("one/report.html", "report.html", "S/report.html")]


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_a_page_opens_without_a_word_on_the_console(
    browser: Any, pages: list[Path], width: int, scheme: str
) -> None:
    for page in pages:
        show(browser, page.as_uri(), width=width, scheme=scheme)
        assert browser.get_log("browser") == []
        requests = [one["message"] for one in browser.get_log("performance")]
        assert not [text for text in requests if '"url":"http' in text]
        # The page never scrolls sideways; wide tables do, in their own place.
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") == (scheme == "light")


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_axe_core_finds_nothing(browser: Any, pages: list[Path], width: int, scheme: str) -> None:
    for page in pages:
        show(browser, page.as_uri(), width=width, scheme=scheme)
        assert violations(browser) == [], page.name


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
