"""Heartbeats of the processes of a group in its store, so that one that hangs or died can be named."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

_INTERVAL_S = 1.0
_MIN_WAIT_S, _MAX_WAIT_S = 1.0, 5.0  # for the other processes to answer


class Heartbeat:
    """The presence of ``size`` processes in a store; ``step`` is the current step of this one.

    A thread writes the step once a second, also while the main thread computes or hangs.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.store = store
        self.rank = rank
        self.size = size
        self.step: int | None = None
        self.names: list[str] = []
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._write_steps, daemon=True)

    def start(self) -> None:
        """Exchange the names of all processes and begin to write steps."""
        name = f"rank {self.rank} ({socket.gethostname()}, process {os.getpid()})"
        self.store.set(f"heartbeat/name/{self.rank}", name)
        self.names = [self.store.get(f"heartbeat/name/{rank}").decode() for rank in range(self.size)]
        self._thread.start()

    def find_missing(self) -> tuple[list[tuple[str, str]], bool]:
        """The processes that do not answer, and whether this one is to report them.

        Called by a process whose collective failed. All others whose collective failed call it too, and
        that is their answer; the lowest of these ranks reports. Each missing process is its name and a
        clause such as ", it last did step 17".
        """
        missing = set(range(self.size)) - {self.rank}
        try:
            self.store.set(f"heartbeat/here/{self.rank}", "1")
            t0 = time.monotonic()
            while missing and time.monotonic() - t0 < _MAX_WAIT_S:
                missing = {r for r in missing if not self.store.check([f"heartbeat/here/{r}"])}
                if len(missing) <= 1 and time.monotonic() - t0 >= _MIN_WAIT_S:
                    break
                time.sleep(0.05)
            named = [(self.names[rank], self._last_step(rank)) for rank in sorted(missing)]
        except (RuntimeError, dist.DistError):
            # The store lives in rank 0, which is gone.
            return ([(self.names[0], "")] if self.rank else []), True
        return named, self.rank == min(set(range(self.size)) - missing)

    def close(self) -> None:
        """Stop writing."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(2)

    def _last_step(self, rank: int) -> str:
        key = f"heartbeat/step/{rank}"
        if not self.store.check([key]):
            return ""
        return f", it last did step {self.store.get(key).decode()}"

    def _write_steps(self) -> None:
        written: int | None = None
        with suppress(RuntimeError, dist.DistError):  # the store ends with rank 0
            while not self._closed.wait(_INTERVAL_S):
                if self.step is not None and self.step != written:
                    written = self.step
                    self.store.set(f"heartbeat/step/{self.rank}", str(written))
