"""The process of a rank, started by `dlcli.training.distributed.launch`; no command of dlcli."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import FrameType
from typing import NoReturn


def main(argv: list[str]) -> NoReturn:
    """Train the run in ``argv[0]`` with the other ranks; with `Screen.flags`, ``--trust``."""
    from dlcli.signals import stop_signals
    from dlcli.training.distributed.parent_death import leave_failed_group

    for signum in stop_signals():  # until training: nothing is there to be saved, nor to be said
        signal.signal(signum, _leave)
    leave_failed_group(Path(argv[0]))

    from dlcli.commands.train_session.report import Screen
    from dlcli.commands.train_session.run import train_here
    from dlcli.runs.folder import RunFolder
    from dlcli.runs.saved import read_run
    from dlcli.training.distributed.worker import run_rank
    from dlcli.trust import ALL, allowing

    saved = read_run(RunFolder(Path(argv[0])))
    with allowing(ALL if "--trust" in argv else None):
        run_rank(
            saved.folder,
            saved.config.launch,
            saved.config.fit.device,
            lambda world: train_here(saved, world, Screen.of(argv)),
        )


def _leave(signum: int, frame: FrameType | None) -> NoReturn:
    os._exit(128 + signum)
