"""The parent's side of a worker process: requests and replies are one JSON line each."""

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


class WorkerLost(Exception):
    """The worker process died, or was killed since it did not reply in time."""


class Worker:
    """A worker process. ``age_s`` is its age at the last reply."""

    def __init__(self, job: Mapping[str, Any], log: Path) -> None:
        """Start the process; what it and its libraries print goes to ``log``."""
        request = json.dumps(dict(job))
        threads = str(job["threads"])
        env = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        self._log = log
        self._started = time.perf_counter()
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
        # Not every system can wait for a pipe with a time limit; a thread reads it.
        self._reader = threading.Thread(
            target=_read, args=(self._process.stdout, self._lines), daemon=True
        )
        self._reader.start()

    def request(self, timeout_s: float, **message: Any) -> dict[str, Any]:
        """Send a request and return the reply. Raises: DlcliError for an error reply, WorkerLost."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise WorkerLost(self._exit_message()) from None
        return self.read(timeout_s)

    def read(self, timeout_s: float) -> dict[str, Any]:
        """Return the next reply. Raises: DlcliError for an error reply, WorkerLost."""
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            self.close()
            raise WorkerLost(f"it did not reply for {timeout_s:g} s and was killed") from None
        self.age_s = time.perf_counter() - self._started
        if line is None:
            raise WorkerLost(self._exit_message())
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise DlcliError(reply["error"], hint=reply.get("hint"))
        return reply

    def close(self) -> None:
        """Kill the process and wait for it."""
        with suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        self._reader.join(_GRACE_S)
        if not self._reader.is_alive():
            assert self._process.stdout is not None
            self._process.stdout.close()

    def _exit_message(self) -> str:
        """Return how the process ended, with the last line of its log."""
        try:
            code = self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self.close()
            return "its process closed its pipe and was killed"
        lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"its process ended with {describe_exit(code)}" + (f": {last}" if last else "")


def _read(stream: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)
