"""Expected failures and their exit codes.

A message says what is wrong, which value, and what is allowed; ``hint`` says what to do. The
command line prints both and exits with ``exit_code``; any other exception is a bug in dlcli (exit
code 70).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

EXIT_DEFECT = 70


class DlcliError(Exception):
    """An expected failure: bad data, a missing file, a full disk."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(DlcliError):
    """An option, a setting or a configuration file that cannot be used as given."""

    exit_code = 2


class BoundMissed(DlcliError):
    """A bound that the user or a check set was missed: parity, ``--min``, ``--require``."""

    exit_code = 3


class Interrupted(DlcliError):
    """A signal ended the command, a run after its state was saved; ``exit_code`` is 128 + the signal."""

    def __init__(self, message: str, *, signum: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = 128 + signum


class Diverged(DlcliError):
    """Training diverged: weights or gradients are not finite."""


class BadSample(DlcliError):
    """A sample that cannot be read; the caller skips and counts it, or fails."""


@contextmanager
def naming(origin: str) -> Iterator[None]:
    """Put the data's path before the message of an error that does not name it."""
    try:
        yield
    except UsageError:
        raise
    except DlcliError as exc:
        if Path(origin).name not in exc.message:
            exc.message = f"{origin}: {exc.message}"
            exc.args = (exc.message,)
        raise


def os_error_message(exc: BaseException) -> str | None:
    """Return a message for an error of the operating system (full disk, no permission), else None.

    An OSError without errno is not the system's: libraries raise it for bad content.
    """
    if not isinstance(exc, OSError) or exc.errno is None:
        return None
    reason = exc.strerror or type(exc).__name__
    return reason if exc.filename is None else f"{exc.filename}: {reason}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint: the known names closest to ``name``, or the list when none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    if len(names) > 24:
        return f"{len(names)} names are known, such as {', '.join(names[:8])}"
    return "known: " + ", ".join(names)
