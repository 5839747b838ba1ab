"""When a rank ends without its own doing: soon after its group failed."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from pathlib import Path
from typing import TextIO

from dlcli.training.distributed.failures import failure_digest, failure_since

# Environment of a rank, set by the launcher: the digest of the failure.json that was there at the
# launch, the rank's log file.
OLD_FAILURE, LOG_FILE = "DLCLI_OLD_FAILURE", "DLCLI_RANK_LOG"
# Exit codes that the launcher reads: another process writes the run; a peer is lost; restart the group;
# the group failed while this rank did something else than to wait for its peers.
EXIT_BUSY, EXIT_PEER_LOST, EXIT_RESTART, EXIT_SILENT = 73, 76, 75, 77
# Modules that wait for peers: collectives, and backward passes, which share gradients.
_WAITING = ("torch.distributed", "torch.autograd.graph")
_POLL_S = 0.5
_GRACE_S = 3.0  # for a process that is about to end by itself


def leave_failed_group(run_path: Path) -> None:
    """Exit at once when the group of this rank must not start again.

    Called before torch is imported, so that the ranks of a failed run end without delay.
    """
    failure = failure_since(run_path, os.environ[OLD_FAILURE])
    if failure is not None and failure.kind == "error":
        sys.exit(0)


def exit_with_group(run_path: Path, log: TextIO) -> None:
    """Have this process end soon after another one of its group wrote a failure.

    A process that waits for a peer inside a collective of the device notices neither that the peer is
    gone nor a signal. Its stacks go to ``log`` first, to show where it was.
    """
    digest = failure_digest(run_path)
    threading.Thread(target=_watch_group, args=(run_path, digest, log), daemon=True).start()


def _watch_group(run_path: Path, digest: str, log: TextIO) -> None:
    while True:
        time.sleep(_POLL_S)
        failure = failure_since(run_path, digest)
        if failure is not None and failure.kind != "interrupted":
            waits = _waits_for_peers()  # before peers end: then it no longer does
            time.sleep(_GRACE_S)
            log.write(f"ended because of {failure.message}\n")
            log.flush()
            faulthandler.dump_traceback(log)
            os._exit(EXIT_PEER_LOST if waits else EXIT_SILENT)


def _waits_for_peers() -> bool:
    """Whether the main thread is inside a collective, by the module of its innermost frame."""
    frame = sys._current_frames()[threading.main_thread().ident or 0]
    return str(frame.f_globals.get("__name__")).startswith(_WAITING)
