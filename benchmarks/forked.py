"""Commands of dlcli in processes of their own that start at once: forks of one with torch."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

os.environ["OMP_NUM_THREADS"] = "1"  # threads would not survive a fork

import torch

from dlcli.cli import main

for _name in (
    "sklearn.datasets",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "polars",
    "onnx",
):
    importlib.import_module(_name)  # once, not in every command
for _name in ("dlcli.commands.train_session.run", "dlcli.training.run", "dlcli.deploy.export"):
    importlib.import_module(_name)

torch.set_num_threads(1)


def start(argv: Sequence[str], folder: Path, log: Path) -> int:
    """Start ``dlcli ARGV`` in a folder, with its output in a file; returns the process id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        _run(argv, folder, log)
    return pid


def _run(argv: Sequence[str], folder: Path, log: Path) -> NoReturn:
    code = 99
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.chdir(folder)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(out, stream)
        code = main(list(argv))
    except SystemExit as exc:
        code = int(exc.code or 0)
    except BaseException:  # what escapes from main is reported as a traceback
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def wait(pid: int) -> int:
    """Return the exit code of a process, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def command(argv: Sequence[str], folder: Path, log: Path) -> tuple[int, str]:
    """Run ``dlcli ARGV`` to its end; returns its exit code and what it printed."""
    code = wait(start(argv, folder, log))
    return code, log.read_text(encoding="utf-8", errors="surrogateescape")


def interrupt(pid: int, after_s: float, signum: int) -> bool:
    """Send a signal after some time; returns whether the process was still there."""
    until = time.monotonic() + after_s
    while time.monotonic() < until:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False
        time.sleep(0.002)
    os.kill(pid, signum)
    return True


SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT, "HUP": signal.SIGHUP}
