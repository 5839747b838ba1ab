"""Which progress a command shows: a live view, plain lines, or warnings alone. All of it on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dlcli.events import Emit
from dlcli.ui import console


@contextmanager
def progress_sink(quiet: bool, as_json: bool) -> Iterator[Emit]:
    """A sink for the length of the block; the terminal is as it was when the block ends, however."""
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
