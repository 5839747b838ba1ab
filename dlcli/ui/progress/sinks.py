"""Choose how progress is shown on stderr: live view, plain lines, or warnings alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dlcli.events import Emit
from dlcli.ui import console


@contextmanager
def progress_sink(quiet: bool, as_json: bool) -> Iterator[Emit]:
    """Yield a sink; the terminal is restored however the block ends."""
    screen = console.stderr()
    if quiet or as_json:
        from dlcli.ui.progress.plain import WarningsOnly

        yield WarningsOnly(screen)
    elif console.on_terminal(screen):
        from dlcli.ui.progress.live import LiveView

        view = LiveView(screen)
        try:
            yield view
        finally:
            view.close()
    else:
        from dlcli.ui.progress.plain import PlainLines

        yield PlainLines(screen)
