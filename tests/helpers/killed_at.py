"""Run dlcli, and kill the process at a moment: ``python killed_at.py journal:3 tune ...``.

``journal:N`` is before the N-th write of a study's journal, ``torn:N`` within it, ``state:N`` after the
N-th training state is saved, ``s:T`` after T seconds.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

from dlcli.cli import main
from dlcli.training.run_files import RunFolderFiles
from dlcli.tune.journal import Journal


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(kind: str, moment: float) -> None:
    append, save = Journal.append_logs, RunFolderFiles.save_state
    counts = {"journal": 0, "state": 0}

    def append_logs(self: Journal, logs: list[dict[str, Any]]) -> None:
        counts["journal"] += 1
        if counts["journal"] == moment and kind in ("journal", "torn"):
            if kind == "torn":
                with self.path.open("ab") as file:
                    file.write(b'{"op_code":4,"worker_id":"to')
            kill()
        append(self, logs)

    def save_state(self: RunFolderFiles, progress: Any) -> str:
        path = save(self, progress)
        counts["state"] += 1
        if kind == "state" and counts["state"] == moment:
            kill()
        return path

    Journal.append_logs, RunFolderFiles.save_state = append_logs, save_state
    if kind == "s":
        threading.Timer(moment, kill).start()


if __name__ == "__main__":
    name, _, at = sys.argv[1].partition(":")
    arm(name, float(at))
    code = main(sys.argv[2:])
    os._exit(code)  # a timer may still wait
