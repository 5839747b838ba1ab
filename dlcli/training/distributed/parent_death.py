"""The life of a process that a launcher started: it ends with the launcher, and with its group."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from pathlib import Path
from typing import TextIO

from dlcli.subprocesses import die_with_parent
from dlcli.training.distributed.failures import failure_since, mark

# Set by the launcher for its ranks: its process id, the mark of the failure.json it found, a log file.
LAUNCHER, FOUND, LOG = "DLCLI_LAUNCHER", "DLCLI_FOUND_FAILURE", "DLCLI_RANK_LOG"
# Exit codes that the launcher reads: somebody else writes the run; another rank is lost; start again.
EXIT_BUSY, EXIT_LOST, EXIT_AGAIN = 73, 76, 75
_EVERY_S = 0.5
_GRACE_S = 3.0  # for a process that is about to end by itself


def prepare(run_path: Path) -> None:
    """Bind this process to its launcher; leave at once when its group has failed for good.

    Called before torch is imported, so that the processes of a failed run end without delay.
    """
    die_with_parent(int(os.environ[LAUNCHER]))
    failure = failure_since(run_path, os.environ[FOUND])
    if failure is not None and failure.kind == "error":
        sys.exit(0)


def die_with_group(run_path: Path, log: TextIO) -> None:
    """End this process soon after another one of its group left word of a failure.

    A process that waits for a peer inside the device's library notices neither that the peer is gone nor
    a signal. Its stacks go to ``log`` first, to show where it was.
    """
    before = mark(run_path)
    threading.Thread(target=_watch_group, args=(run_path, before, log), daemon=True).start()


def _watch_group(run_path: Path, before: str, log: TextIO) -> None:
    while True:
        time.sleep(_EVERY_S)
        failure = failure_since(run_path, before)
        if failure is not None and failure.kind != "interrupted":
            time.sleep(_GRACE_S)
            log.write(f"ended because of {failure.message}\n")
            log.flush()
            faulthandler.dump_traceback(log)
            os._exit(EXIT_LOST)
