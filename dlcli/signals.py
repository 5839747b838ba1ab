"""Signals that end a command, by an exception: temporary files are removed and children ended."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # SIGBREAK is Windows' Ctrl-Break


class Terminated(KeyboardInterrupt):
    """What a first SIGTERM, SIGHUP or SIGBREAK raises, as SIGINT raises KeyboardInterrupt."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def stop_signals() -> list[int]:
    """The numbers of the signals that stop a run here; SIGHUP is none under nohup, which ignores it."""
    present = [signum for name in SIGNALS if (signum := getattr(signal, name, None)) is not None]
    hangup = getattr(signal, "SIGHUP", None)
    return [s for s in present if s != hangup or signal.getsignal(s) is not signal.SIG_IGN]


def signum_of(exc: KeyboardInterrupt) -> int:
    """The signal that an exception stands for."""
    return exc.signum if isinstance(exc, Terminated) else signal.SIGINT


@contextmanager
def raising_terminated() -> Iterator[None]:
    """Context in which the first signal that would end the process raises `Terminated` instead.

    The next one ends it. Signals that are ignored, or handled by others, stay so; outside of the main
    thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = [s for s in stop_signals() if signal.getsignal(s) is signal.SIG_DFL]
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def terminate(signum: int, frame: FrameType | None) -> None:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)
        if signum == getattr(signal, "SIGHUP", None):
            write_nowhere(terminals)
        raise Terminated(signum)

    for number in handled:
        signal.signal(number, terminate)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)


def write_nowhere(descriptors: Sequence[int]) -> None:
    """Redirect descriptors of a terminal that is gone: writing there would fail before all is saved."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
