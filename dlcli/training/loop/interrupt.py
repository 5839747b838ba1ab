"""Signals: the first Ctrl-C, SIGTERM or SIGHUP lets the run save and stop, the second ends it."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from dlcli.signals import stop_signals, write_nowhere


class StopRequested(Exception):
    """A signal that all processes know of; `fit` then saves and ends."""


class StopGuard:
    """Context in which a first signal only sets ``signum``; outside the main thread it does nothing.

    With ``StopGuard.patient``, in a process of a group, later signals are ignored too: one Ctrl-C may
    arrive both from the terminal and from the launcher, and a second one ends the launcher.
    """

    patient = False

    def __init__(self) -> None:
        self.signum: int | None = None
        self._before: dict[int, Any] = {}
        self._terminals: list[int] = []

    def __enter__(self) -> StopGuard:
        if threading.current_thread() is threading.main_thread():
            self._terminals = [fd for fd in (1, 2) if os.isatty(fd)]
            for signum in stop_signals():
                self._before[signum] = signal.signal(signum, self._first)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._restore()

    def _first(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is None:
            self.signum = signum
        if signum == getattr(signal, "SIGHUP", None):
            write_nowhere(self._terminals)
        if not self.patient:
            self._restore()

    def _restore(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}
