"""Who is there: processes keep their place in the group's store, so that one that hangs can be named."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

_EVERY_S = 1.0
_LEAST_S, _MOST_S = 1.0, 5.0  # how long a roll call waits for answers


class Roll:
    """The presence of ``size`` processes in a store. ``step`` is where this one is.

    A thread writes the step down once a second, also while the main thread computes or hangs.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.store = store
        self.rank = rank
        self.size = size
        self.step: int | None = None
        self.who: list[str] = []
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._write_steps, daemon=True)

    def start(self) -> None:
        """Tell who this process is, learn it of the others, and begin to write steps down."""
        me = f"rank {self.rank} ({socket.gethostname()}, process {os.getpid()})"
        self.store.set(f"roll/who/{self.rank}", me)
        self.who = [self.store.get(f"roll/who/{rank}").decode() for rank in range(self.size)]
        self._thread.start()

    def call(self) -> tuple[list[tuple[str, str]], bool]:
        """Who does not answer, as names and clauses such as ", it last did step 17"; and who tells it.

        Called by a process whose collective failed; all others whose collective failed do the same and
        so answer. The one that tells is the first that answered.
        """
        missing = set(range(self.size)) - {self.rank}
        try:
            self.store.set(f"roll/here/{self.rank}", "1")
            t0 = time.monotonic()
            while missing and time.monotonic() - t0 < _MOST_S:
                missing = {r for r in missing if not self.store.check([f"roll/here/{r}"])}
                if len(missing) <= 1 and time.monotonic() - t0 >= _LEAST_S:
                    break
                time.sleep(0.05)
            named = [(self.who[rank], self._where(rank)) for rank in sorted(missing)]
        except (RuntimeError, dist.DistError):
            # The store lives in the first process: it is gone.
            return ([(self.who[0], "")] if self.rank else []), True
        return named, self.rank == min(set(range(self.size)) - missing)

    def close(self) -> None:
        """Stop writing."""
        self._left.set()
        if self._thread.is_alive():
            self._thread.join(2)

    def _where(self, rank: int) -> str:
        key = f"roll/step/{rank}"
        if not self.store.check([key]):
            return ""
        return f", it last did step {self.store.get(key).decode()}"

    def _write_steps(self) -> None:
        written: int | None = None
        with suppress(RuntimeError, dist.DistError):  # the store goes with the first process
            while not self._left.wait(_EVERY_S):
                if self.step is not None and self.step != written:
                    written = self.step
                    self.store.set(f"roll/step/{self.rank}", str(written))
