"""Commands in processes of their own that start fast: one is killed at a step, two are ranks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# A server that has imported what a run needs, and forks: starting a process takes no import.
_FORKSERVER = multiprocessing.get_context("forkserver")
_FORKSERVER.set_forkserver_preload(["torchvision.transforms", "dlcli.training.run", "dlcli.ui.plots"])
_TIMEOUT_S = 240


def kill_at(step: int, folder: Path, argv: Sequence[str]) -> None:
    """Run a command in ``folder`` that SIGKILL ends after an optimizer step."""
    process = _FORKSERVER.Process(target=_command, args=(folder, _environment(), list(argv), step))
    process.start()
    process.join(_TIMEOUT_S)
    assert process.exitcode == -signal.SIGKILL


def run_as_ranks(folder: Path, argv: Sequence[str], ranks: int = 2) -> None:
    """Run a command in several processes at once that meet as those of torchrun do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    processes = []
    for rank in range(ranks):
        variables = {**group, "RANK": rank, "LOCAL_RANK": rank}
        env = {
            **_environment(),
            **{name: str(value) for name, value in variables.items()},
            "MASTER_ADDR": "127.0.0.1",
            "TORCHELASTIC_RUN_ID": f"{folder.name}-{port}",
        }
        processes.append(_FORKSERVER.Process(target=_command, args=(folder, env, list(argv))))
        processes[-1].start()
    for process in processes:
        process.join(_TIMEOUT_S)
        process.kill()  # one that waits for another that failed
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * ranks


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(("DLCLI_", "OMP_"))}


def _command(folder: Path, env: dict[str, str], argv: list[str], kill_after: int | None = None) -> None:
    """What the process does."""
    from dlcli.cli import main
    from dlcli.events import Emit, Event, StepDone
    from dlcli.runs.folder import RunFolder
    from dlcli.ui.progress.run_sinks import register_sink

    warnings.simplefilter("ignore")
    os.environ.update(env)
    os.chdir(folder)

    @register_sink("kill", enabled=lambda fit: kill_after is not None)
    @contextmanager
    def sink(run: RunFolder, emit: Emit) -> Iterator[Emit]:
        def kill(event: Event) -> None:
            if isinstance(event, StepDone) and event.step == kill_after:
                os.kill(os.getpid(), signal.SIGKILL)

        yield kill

    sys.exit(main(argv))
