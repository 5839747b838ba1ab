"""Signals: the first Ctrl-C or SIGTERM lets the run save and stop, the second ends it at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = ("SIGINT", "SIGTERM", "SIGBREAK")  # SIGBREAK is Windows' Ctrl-Break


class StopRequested(Exception):
    """A signal during an evaluation; `fit` then saves and ends."""


class StopGuard:
    """Context in which a first signal only sets ``signum``; outside the main thread it does nothing.

    With ``StopGuard.patient``, in a process of a group, later signals are ignored too: one Ctrl-C may
    arrive both from the terminal and from the launcher, and a second one ends the launcher.
    """

    patient = False

    def __init__(self) -> None:
        self.signum: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopGuard:
        if threading.current_thread() is threading.main_thread():
            for name in SIGNALS:
                signum = getattr(signal, name, None)
                if signum is not None:
                    self._before[signum] = signal.signal(signum, self._first)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._restore()

    def check(self) -> None:
        """Raises: StopRequested after a signal."""
        if self.signum is not None:
            raise StopRequested

    def _first(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is None:
            self.signum = signum
        if not self.patient:
            self._restore()

    def _restore(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}
