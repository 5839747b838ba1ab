"""Run `dlcli.machine.probe` in a child process that may hang or die, and read its results."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dlcli.subprocesses import child_command, describe_exit

# The error of a step that an earlier failure left no chance.
NOT_TRIED = "it was not tried"

# The name of the step of a child that ended before its first record.
START = {
    "torch": "start python for torch",
    "onnx": "start python for onnxruntime",
    "nvml": "start python for NVML",
    "deep": "start python for compile and all-reduce",
    "bench": "start python for the speeds",
}


@dataclass(frozen=True)
class Outcome:
    """How a step of the probe ended: with a value, or with an error (a clause)."""

    value: dict[str, Any] | None = None
    error: str | None = None
    trace: str | None = None  # the end of the child's stderr, after a crash


def run_probe(
    part: str, *arguments: str, timeout_s: float, module: str = "dlcli.machine.probe"
) -> dict[str, Outcome]:
    """Run a part of the probe ("torch", "onnx" ...); the outcome of each step that was reached.

    A step that kills the child is noted, and a new child does the rest without it. ``module`` is another
    one whose ``main`` runs `Steps`.
    """
    deadline = time.monotonic() + timeout_s
    outcomes: dict[str, Outcome] = {}
    crashed: list[str] = []
    while True:
        left_s = max(0.0, deadline - time.monotonic())
        stdout, stderr, code = _run_child(module, [part, *arguments, *crashed], left_s)
        unfinished = _read_records(stdout, outcomes)
        if code == 0 and unfinished is None:
            return outcomes
        step = unfinished or START[part]
        error = f"it did not end within {timeout_s:g} s"
        if code is not None:
            error = f"it crashed with {describe_exit(code)}"
        outcomes[step] = Outcome(error=error, trace="\n".join(stderr.splitlines()[-25:]))
        interrupted = code in (-signal.SIGINT, 130)  # Ctrl-C reaches the child too
        if code is None or unfinished is None or step in crashed or interrupted:
            return outcomes
        crashed.append(step)


def _run_child(module: str, arguments: list[str], timeout_s: float) -> tuple[str, str, int | None]:
    """stdout, stderr and the exit code (None: it was still running and was killed)."""
    command = child_command(module, *arguments, interpreter_options=("-X", "faulthandler"))
    # Files, not pipes: what was written before a hang can be read, and a child that not even SIGKILL
    # ends (stuck in a driver) can be left behind.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        try:
            code: int | None = child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if child.poll() is None:
                child.kill()
                with suppress(subprocess.TimeoutExpired):
                    child.wait(5)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    return texts[0], texts[1], code


def _read_records(stdout: str, outcomes: dict[str, Outcome]) -> str | None:
    """Add the child's records to ``outcomes``; returns the step that was started and did not end."""
    open_step: str | None = None
    for line in stdout.splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            break  # the child died while it wrote this
        if record["state"] == "started":
            open_step = record["step"]
            continue
        open_step = None
        error = record.get("error")
        outcomes[record["step"]] = Outcome(
            value=record.get("value"), error=" ".join(error.split()) if error else None
        )
    return open_step
