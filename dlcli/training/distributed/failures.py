"""failure.json of a run: why a process of a group ended, for the launcher and the other processes.

One failure at a time. Its kinds: "error" (the user's to mend: nobody tries again), "interrupted" (by a
signal, the state is saved), "lost" (a process hangs or is gone) and "memory" (out of memory; the group
starts again with smaller micro-batches).
"""

from __future__ import annotations

import hashlib
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dlcli.errors import DlcliError
from dlcli.files import read_json, write_json

Kind = Literal["error", "interrupted", "lost", "memory"]
NAME = "failure.json"


@dataclass(frozen=True)
class Failure:
    """What a process said before it ended."""

    kind: Kind
    message: str
    hint: str | None = None
    exit_code: int = 1
    rank: int = 0

    def error(self) -> DlcliError:
        """The error as the launcher raises it."""
        error = DlcliError(self.message, hint=self.hint)
        error.exit_code = self.exit_code
        return error


def write_failure(run_path: Path, failure: Failure) -> None:
    """Leave word for the launcher and the others. A full disk costs the word, not more."""
    with suppress(DlcliError):
        write_json(run_path / NAME, {**asdict(failure), "id": uuid.uuid4().hex})


def read_failure(run_path: Path) -> Failure | None:
    """The last failure, or None."""
    try:
        said: dict[str, Any] = read_json(run_path / NAME)
        said.pop("id")
        return Failure(**said)
    except (DlcliError, TypeError, KeyError, AttributeError):
        return None


def mark(run_path: Path) -> str:
    """What tells this failure.json from a later one; "" where there is none.

    Not a time: the clocks of several machines differ.
    """
    try:
        return hashlib.sha256((run_path / NAME).read_bytes()).hexdigest()[:16]
    except OSError:
        return ""


def failure_since(run_path: Path, before: str) -> Failure | None:
    """The failure that was written after ``before`` was the `mark`, or None."""
    return read_failure(run_path) if mark(run_path) != before else None


def forget(run_path: Path) -> None:
    """Remove failure.json, as a run does that trains again."""
    (run_path / NAME).unlink(missing_ok=True)
