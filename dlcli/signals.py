"""Signals that end a command, by an exception: temporary files are removed and children ended."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # SIGBREAK is Windows' Ctrl-Break


class Terminated(KeyboardInterrupt):
    """What a first signal raises.

    KeyboardInterrupt itself, where it passes code that was given as a string, has Python die of SIGINT
    at its end, whatever the exit code.
    """

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


class SignalRaiser:
    """Handler that raises the first signal, in an import only where a module is looked up.

    An exception at any other moment of an import may be lost: code in C that imports has no way to pass
    it on (torch takes NumPy for missing), and some libraries catch all. One that is lost there is raised
    again at the next module. A module that runs for long, as a user's may, is left after `PATIENCE_S`.
    """

    PATIENCE_S = 1.0
    INTERVAL_S = 0.02

    def __init__(self) -> None:
        self.signum: int | None = None  # the first signal
        self._before = {
            s: handler
            for s in stop_signals()
            if (handler := signal.getsignal(s)) in (signal.SIG_DFL, signal.default_int_handler)
        }
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
        self._import: FrameType | None = None  # the import that the signal came in
        self._deadline = 0.0
        self._done = False

    def install(self) -> None:
        """Handle the signals that would end the process; those ignored or handled by others stay so."""
        for signum in self._before:
            signal.signal(signum, self._handle)

    def restore(self) -> None:
        """Give the signals back to their handlers."""
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._import, self._done = None, True
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is None:
            self.signum = signum
            self._deadline = time.monotonic() + self.PATIENCE_S
            if signum == getattr(signal, "SIGHUP", None):
                write_nowhere(self._terminals)
        self._import = _import_of(frame)
        if self._import is None or time.monotonic() > self._deadline:
            self._raise()
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
            _thread.start_new_thread(self._remind, (signal.Signals(signum),))

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Raise the signal where the import looks for a module, as a finder of `sys.meta_path`."""
        importing = _import_of(sys._getframe())
        if self._import is not None and importing is self._import:
            self._raise()

    def _remind(self, signum: signal.Signals) -> None:
        """Send the signal again until a handler takes it: the import may end without another module."""
        own = True
        while own and not self._done:
            time.sleep(self.INTERVAL_S)
            own = signal.getsignal(signum) == self._handle
            if not self._done:
                _thread.interrupt_main(signum)

    def _raise(self) -> NoReturn:
        """Raise the signal; the next one ends the process."""
        for signum in self._before:
            signal.signal(signum, signal.SIG_DFL)
        self._done = True
        raise Terminated(self.signum or 0)


def _import_of(frame: FrameType | None) -> FrameType | None:
    """Return the outermost frame of the import system that a frame was called from."""
    outermost = None
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            outermost = frame
        frame = frame.f_back
    return outermost


_active: list[SignalRaiser] = []


@contextmanager
def raising_signals() -> Iterator[SignalRaiser]:
    """Context in which the first signal that would end the process is raised; the next one ends it.

    Within another such context, and outside of the main thread, nothing changes.
    """
    if _active:
        yield _active[0]
        return
    raiser = SignalRaiser()
    if threading.current_thread() is not threading.main_thread():
        yield raiser
        return
    raiser.install()
    _active.append(raiser)
    try:
        yield raiser
    finally:
        _active.clear()
        raiser.restore()


def write_nowhere(descriptors: Sequence[int]) -> None:
    """Redirect descriptors of a terminal that is gone: writing there would fail before all is saved."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
