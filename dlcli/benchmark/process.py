"""The parent's end of a worker: a process that is asked by one JSON line and answers by another."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from dlcli.errors import DlcliError
from dlcli.subprocesses import child_command, describe_exit

_GRACE_S = 5.0


class Lost(Exception):
    """The worker is gone: it died, or gave no answer in time and was ended."""


class Worker:
    """One process. ``age_s`` is how old it was when it last answered."""

    def __init__(self, job: Mapping[str, Any], log: Path) -> None:
        """Start it; what it and its libraries print goes to ``log``."""
        request = json.dumps({**job, "parent": os.getpid()})
        threads = str(job["threads"])
        env = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        self._log = log
        self._began = time.perf_counter()
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                child_command("dlcli.benchmark.worker", request),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=env,
                text=True,
                encoding="utf-8",
            )
        self.age_s = 0.0
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        assert self._process.stdout is not None
        # Pipes cannot be waited for with a time limit on every system; a thread reads them.
        self._reader = threading.Thread(
            target=_read, args=(self._process.stdout, self._lines), daemon=True
        )
        self._reader.start()

    def ask(self, timeout_s: float, **request: Any) -> dict[str, Any]:
        """Its answer. Raises: DlcliError that it answered with; Lost when there is none."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise Lost(self._end()) from None
        return self.read(timeout_s)

    def read(self, timeout_s: float) -> dict[str, Any]:
        """The next answer, as `ask`."""
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            self.close()
            raise Lost(f"it gave no answer for {timeout_s:g} s and was ended") from None
        self.age_s = time.perf_counter() - self._began
        if line is None:
            raise Lost(self._end())
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise DlcliError(reply["error"], hint=reply.get("hint"))
        return reply

    def close(self) -> None:
        """End the process and wait for it."""
        with suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        self._reader.join(_GRACE_S)
        if not self._reader.is_alive():
            assert self._process.stdout is not None
            self._process.stdout.close()

    def _end(self) -> str:
        """How it ended, in words, with the last thing that it said."""
        try:
            code = self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self.close()
            return "its process closed its pipe and was ended"
        lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"its process ended with {describe_exit(code)}" + (f": {last}" if last else "")


def _read(stream: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)
