"""failure.json of a run: why a process of a group ended, for the launcher and the other processes.

It holds one failure. Its kinds: "error" (the user must fix it: no restart), "interrupted" (by a signal,
the state is saved), "lost" (a process hangs or is gone) and "memory" (out of memory; the group restarts
with smaller micro-batches).
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

FailureKind = Literal["error", "interrupted", "lost", "memory"]
FILE_NAME = "failure.json"


@dataclass(frozen=True)
class Failure:
    """Why a process ended."""

    kind: FailureKind
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
    """Write failure.json for the launcher and the other processes. A full disk is no further error."""
    with suppress(DlcliError):
        write_json(run_path / FILE_NAME, {**asdict(failure), "id": uuid.uuid4().hex})


def read_failure(run_path: Path) -> Failure | None:
    """The last failure, or None."""
    try:
        values: dict[str, Any] = read_json(run_path / FILE_NAME)
        values.pop("id")
        return Failure(**values)
    except (DlcliError, TypeError, KeyError, AttributeError):
        return None


def failure_digest(run_path: Path) -> str:
    """A digest that tells this failure.json from a later one; "" where there is none.

    Not a time, since the clocks of several machines differ.
    """
    try:
        return hashlib.sha256((run_path / FILE_NAME).read_bytes()).hexdigest()[:16]
    except OSError:
        return ""


def failure_since(run_path: Path, digest: str) -> Failure | None:
    """The failure that was written after `failure_digest` was ``digest``, or None."""
    return read_failure(run_path) if failure_digest(run_path) != digest else None


def clear_failure(run_path: Path) -> None:
    """Remove failure.json, when a run starts again."""
    (run_path / FILE_NAME).unlink(missing_ok=True)
