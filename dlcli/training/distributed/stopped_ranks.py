"""The launcher's watch over its ranks: one that is stopped is killed, so that the group ends."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from dlcli.training.distributed.failures import Failure, write_failure

STOPPED_LIMIT_S = 8
_POLL_S = 1.0


class StoppedRanks:
    """Context in which a thread kills ranks that have been stopped (SIGSTOP, SIGTSTP) for 8 seconds.

    The operating system tells them from ranks that are merely slow, however busy the machine is. Polls
    are counted, not time, so a launcher that was stopped with its ranks kills none. ``ranks`` gives the
    running processes. The failure is written before the kill, so that the other ranks end too and a
    group that starts again can say why.
    """

    def __init__(self, run_path: Path, ranks: Callable[[], Sequence[psutil.Process]]) -> None:
        self._run_path = run_path
        self._ranks = ranks
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        if os.name != "nt":  # Windows has no such signal
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(2 * _POLL_S)

    def _watch(self) -> None:
        polls: dict[int, int] = {}
        while not self._closed.wait(_POLL_S):
            stopped = [rank for rank in self._ranks() if _is_stopped(rank)]
            polls = {rank.pid: polls.get(rank.pid, 0) + 1 for rank in stopped}
            for rank in stopped:
                if polls[rank.pid] >= STOPPED_LIMIT_S:
                    self._kill(rank)

    def _kill(self, rank: psutil.Process) -> None:
        with suppress(psutil.Error):
            number = rank.environ().get("RANK", "?")
            message = (
                f"rank {number} (process {rank.pid}) has not answered for {STOPPED_LIMIT_S} s: it was "
                "stopped (SIGSTOP or SIGTSTP)"
            )
            hint = "it was killed; resume the run with --resume"
            write_failure(self._run_path, Failure("lost", message, hint))
            rank.kill()


def _is_stopped(rank: psutil.Process) -> bool:
    with suppress(psutil.Error):  # it ended meanwhile
        return rank.status() == psutil.STATUS_STOPPED
    return False
