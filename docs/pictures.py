"""Draw README's pictures from a run: the live view as SVG, parts of its report as PNG.

    dlcli train --model cnn --data ./fashion_mnist --epochs 5 && dlcli eval
    python docs/pictures.py runs/cnn-fashion-mnist docs/pictures

The live view is that of the run's own recorded events, up to the middle of its fourth epoch. The PNG
needs Chromium, its driver and selenium.
"""

from __future__ import annotations

import io
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME

from dlcli import events
from dlcli.runs.folder import RunFolder, read_events
from dlcli.ui.progress.live import LiveView

WIDTH = 100  # columns of the terminal
PAGE = (1180, 1000)  # pixels of the window
SECTIONS = {"training": 395, "errors": 530}  # of the report below its head, and pixels of each
EPOCH, SHARE = 4, 0.6  # where the live view stops


class Still:
    """In the place of rich's Live: draws nothing by itself."""

    def stop(self) -> None:
        """Do nothing."""


def live_view(run: RunFolder) -> str:
    """Return the terminal as SVG: the plan, the epochs that are done, the bars."""
    console = Console(
        record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    recorded = [
        _event(values) for values in read_events(run.metrics) if hasattr(events, values["event"])
    ]
    steps = [one for one in recorded if isinstance(one, events.StepDone)]
    last = next(s for s in steps if s.epoch == EPOCH and s.step_in_epoch >= SHARE * s.steps_per_epoch)
    view = LiveView(console, clock=lambda: 0.0)
    view._live = Still()  # type: ignore[assignment]
    console.print("$ dlcli train --model cnn --data ./fashion_mnist --epochs 5", highlight=False)
    for one in recorded[: recorded.index(last) + 1]:
        view(one)
    console.print(view)
    svg = console.export_svg(title="dlcli train", theme=SVG_EXPORT_THEME)
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # fonts of another host


def _event(values: dict[str, Any]) -> events.Event:
    """Return a recorded event; fields that its class derives are left out."""
    kind = getattr(events, values["event"])
    return kind(**{name: values[name] for name in kind.__dataclass_fields__ if name in values})  # type: ignore[no-any-return]


def report_page(run: RunFolder, target: Path) -> None:
    """Write the head of the run's report and the beginning of two sections as a PNG of few colours."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))))
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    browser = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(shutil.which("chromedriver"))
    )
    try:
        browser.set_window_size(*PAGE)
        browser.get(run.report.resolve().as_uri())
        browser.set_window_size(
            PAGE[0], browser.execute_script("return document.body.scrollHeight") + 200
        )
        tops = [browser.find_element("id", name).location["y"] for name in ("results", *SECTIONS)]
        page = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    finally:
        browser.quit()
    parts = [(0, tops[0]), *((y, y + size) for y, size in zip(tops[1:], SECTIONS.values(), strict=True))]
    picture = Image.new("RGB", (page.width, sum(end - top for top, end in parts)), "white")
    at = 0
    for top, end in parts:
        picture.paste(page.crop((0, top, page.width, end)), (0, at))
        at += end - top
    picture.quantize(64).save(target, optimize=True)


def main() -> None:
    """Write both pictures into a folder."""
    run, folder = RunFolder(Path(sys.argv[1])), Path(sys.argv[2])
    folder.mkdir(exist_ok=True)
    (folder / "live.svg").write_text(live_view(run), encoding="utf-8")
    report_page(run, folder / "report.png")


if __name__ == "__main__":
    main()
