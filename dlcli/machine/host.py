"""Where the doctor reads: the system's files below a root, an environment, programs on its PATH.

Every fact that is not Python's own passes through here, so that a test describes another machine by a
folder with ``proc``, ``sys`` and ``dev``, and programs of its own on the PATH.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from platform import machine as machine_name

PROGRAM_LIMIT_S = 10.0  # a driver that hangs takes nvidia-smi with it


@dataclass(frozen=True)
class Reply:
    """What a program wrote, and how it ended; ``code`` is None where it was ended at the limit."""

    stdout: str
    stderr: str
    code: int | None

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def complaint(self) -> str:
        """Why it failed, in its own words."""
        if self.code is None:
            return f"it did not end within {PROGRAM_LIMIT_S:g} s"
        return " ".join((self.stderr.strip() or self.stdout.strip()).split()) or f"exit code {self.code}"


@dataclass(frozen=True)
class Host:
    """A machine to look at; the default is this one. ``packages`` None: the folders of ``sys.path``."""

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    platform: str = sys.platform
    machine: str = field(default_factory=machine_name)
    packages: Sequence[str] | None = None
    disk_usage: Callable[[Path], tuple[int, int, int]] = shutil.disk_usage

    def path(self, name: str) -> Path:
        """Return where a file of the system is: ``/proc/cpuinfo`` below the root."""
        return self.root / name.lstrip("/")

    def read(self, name: str) -> str:
        """Return a file of the system, or "" where it has none."""
        try:
            return self.path(name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def exists(self, name: str) -> bool:
        return self.path(name).exists()

    def glob(self, pattern: str) -> list[Path]:
        """Return the files of the system that fit a pattern, sorted."""
        try:
            return sorted(self.root.glob(pattern.lstrip("/")))
        except OSError:
            return []

    def run(self, *command: str) -> Reply | None:
        """Run a program of the PATH; None where there is none."""
        program = shutil.which(command[0], path=self.environ.get("PATH", ""))
        if program is None:
            return None
        try:
            done = subprocess.run(
                [program, *command[1:]],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=PROGRAM_LIMIT_S,
                env=dict(self.environ),
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Reply("", "", None)
        except OSError as exc:
            return Reply("", str(exc), 126)
        stdout, stderr = (text.decode("utf-8", "replace") for text in (done.stdout, done.stderr))
        return Reply(stdout, stderr, done.returncode)
