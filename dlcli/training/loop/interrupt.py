"""The first Ctrl-C or SIGTERM asks the run to save and stop; the second leaves at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = ("SIGINT", "SIGTERM", "SIGBREAK")  # SIGBREAK is Windows' Ctrl-Break


class StopRequested(Exception):
    """Raised inside long evaluations when a stop was asked for; `fit` saves and ends."""


class StopGuard:
    """Context in which the signals only set ``signum``; outside the main thread it does nothing.

    In a process of a group all signals count as one (``StopGuard.patient``): a Ctrl-C may reach it from
    the terminal and from its launcher, and it is the launcher that a second one ends.
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
