"""Signals to the launcher: the first lets the ranks save and exit, within limits, the second kills them.

Time alone does not tell a rank that hangs from one that is slow: a step may be long, the first epoch may
read from a slow disk. So without a signal a group ends when one of its collectives has waited for
``launch.timeout_s``, as in torch, or when the operating system says that a rank is stopped
(`stopped_ranks`). After a signal a rank owes no more than the rest of its micro-batch and the state:
ranks that have not ended by then are killed, unless a state is being written. The state before stays.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from types import FrameType
from typing import Any

import psutil
from torch.distributed.elastic.multiprocessing import SignalException

from dlcli.files import TMP_PREFIX
from dlcli.runs.folder import RunFolder
from dlcli.signals import stop_signals
from dlcli.training.distributed.failures import Failure, write_failure
from dlcli.training.distributed.parent_death import EXIT_SILENT

STOP_LIMIT_S = 22.0  # with the seconds below, and torchelastic's own end, less than 30
_END_S = 5.0  # for ranks that know of the failure to write their stacks
_POLL_S = 0.2


class SignalRelay:
    """Context in which signals are passed on to the ranks of ``run``, which ``command`` started.

    ``signum`` is the first signal, ``twice`` whether another one came. torchelastic's own handler kills
    the ranks after 30 seconds, which up to torch 2.11 cannot be changed; so the waiting is done here,
    before torchelastic learns of the signal.
    """

    def __init__(self, run: RunFolder, command: list[str]) -> None:
        self._run = run
        self._command = command
        self.signum: int | None = None
        self.twice = False
        self._handlers: dict[int, Any] = {}
        self._files = self._unfinished_files()

    def __enter__(self) -> None:
        for signum in stop_signals():
            self._handlers[signum] = signal.signal(signum, self._handle)

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        ranks = rank_processes(self._command)
        if self.signum is not None:
            self.twice = True
            for rank in ranks:
                _send(rank, None)
            raise KeyboardInterrupt
        self.signum = signum
        numbers = {rank.pid: _number(rank) for rank in ranks}
        for rank in ranks:
            _send(rank, signum)
        if late := self._wait(ranks):
            self._end(late, numbers)
        raise SignalException("asked to stop", signal.Signals(signum))

    def _wait(self, ranks: list[psutil.Process]) -> list[psutil.Process]:
        """Wait for the ranks to end; return those that have not within the limit."""
        deadline = time.monotonic() + STOP_LIMIT_S
        while ranks and (time.monotonic() < deadline or self._unfinished_files() - self._files):
            _, ranks = psutil.wait_procs(ranks, timeout=_POLL_S)
        return ranks

    def _end(self, ranks: list[psutil.Process], numbers: dict[int, str]) -> None:
        """End the ranks, let them write their stacks before, and write which of them were silent."""
        message = f"the group has not ended for {STOP_LIMIT_S:g} s after a signal"
        write_failure(self._run.path, Failure("lost", message))
        gone, alive = psutil.wait_procs(ranks, timeout=_END_S)
        for rank in alive:
            _send(rank, None)
        psutil.wait_procs(alive, timeout=_END_S)
        codes = {rank.pid: getattr(rank, "returncode", None) for rank in gone}  # set by wait_procs
        silent = [*alive, *(rank for rank in gone if codes[rank.pid] == EXIT_SILENT)]
        names = [f"rank {numbers[rank.pid]} (process {rank.pid})" for rank in silent]
        verb = "has" if len(names) == 1 else "have"
        who = " and ".join(names) or "another machine, or a collective of ranks that differ,"
        message = f"{who} {verb if names else 'has'} not answered for {STOP_LIMIT_S:g} s"
        write_failure(self._run.path, Failure("lost", message))

    def _unfinished_files(self) -> set[str]:
        """Files and folders of the run that are being written, and those that were when a rank died."""
        folders = (self._run.path, self._run.state)
        return {str(path) for folder in folders for path in folder.glob(f"{TMP_PREFIX}*")}


def rank_processes(command: list[str]) -> list[psutil.Process]:
    """The running ranks of this launcher."""
    ranks = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it ended meanwhile
            if child.cmdline()[1:] == command[1:]:
                ranks.append(child)
    return ranks


def _number(rank: psutil.Process) -> str:
    with suppress(psutil.Error):
        return rank.environ().get("RANK", "?")
    return "?"


def _send(rank: psutil.Process, signum: int | None) -> None:
    """Send a signal, None to kill; Windows passes Ctrl-C on by itself."""
    try:
        if signum is None:
            rank.kill()
        elif os.name != "nt":
            rank.send_signal(signum)
    except psutil.NoSuchProcess:
        pass
