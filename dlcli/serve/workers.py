"""Several processes that serve the same models on one socket, and their supervisor."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli.config import ServeConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.files import temporary_folder
from dlcli.formats.base import recognize
from dlcli.machine.threads import usable_cores
from dlcli.serve.gateway import log_line
from dlcli.serve.metrics import SHARED_FOLDER
from dlcli.serve.server import bind, opened_server
from dlcli.signals import raising_signals
from dlcli.subprocesses import child_command, describe_exit

if TYPE_CHECKING:
    from dlcli.formats.base import ModelFile

_POLL_S = 0.1
_KILL_AFTER_S = 5.0  # of the end of the time for requests in progress


def serve_in_workers(
    files: Sequence[ModelFile],
    config: ServeConfig,
    *,
    trust: bool,
    access_log: bool,
    started: Callable[[socket.socket, list[dict[str, Any]]], None],
) -> None:
    """Serve in ``config.workers`` processes until a signal; one that dies is started again.

    The socket is theirs alike, so connections that wait survive a worker. ``started`` gets it and the
    metadata of the models once all serve. Raises: DlcliError where a worker cannot start.
    """
    if os.name == "nt":
        raise UsageError("--workers needs a system whose processes share sockets, which Windows lacks")
    share = config.threads or usable_cores(config.workers)
    call = {
        "paths": [str(file.path) for file in files],
        "config": config.model_copy(update={"threads": share}).model_dump(),
        "trust": trust,
        "access_log": access_log,
    }
    with bind(config.host, config.port) as bound, temporary_folder() as folder:
        workers: list[_Worker] = []
        try:
            workers = [_Worker(call, bound, folder) for _ in range(config.workers)]
            served = [worker.wait_until_ready() for worker in workers]
            started(bound, served[0])
            _supervise(workers, lambda: _Worker(call, bound, folder))
        finally:
            _end(workers, config.drain_s)


def _supervise(workers: list[_Worker], start: Callable[[], _Worker]) -> None:
    """Start workers again that ended, for ever. Raises: DlcliError where one cannot start."""
    while True:
        for at, worker in enumerate(workers):
            code = worker.process.poll()
            if code is not None:
                log_line("worker", pid=worker.process.pid, ended=describe_exit(code))
                workers[at] = start()
                workers[at].wait_until_ready()
        time.sleep(_POLL_S)


def _end(workers: Sequence[_Worker], drain_s: float) -> None:
    """Let all workers answer what is in progress; kill those that take too long."""
    for worker in workers:
        worker.process.terminate()
    until = time.monotonic() + drain_s + _KILL_AFTER_S
    for worker in workers:
        try:
            worker.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()


class _Worker:
    """A process that serves. What it is asked goes through its stdin: others read its arguments."""

    def __init__(self, call: dict[str, Any], bound: socket.socket, folder: Path) -> None:
        descriptor = bound.fileno()
        self.process = subprocess.Popen(
            child_command("dlcli.serve.workers"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(descriptor,),
            env={**os.environ, SHARED_FOLDER: str(folder)},
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({**call, "socket": descriptor}).encode())
        self.process.stdin.close()

    def wait_until_ready(self) -> list[dict[str, Any]]:
        """The metadata of its models, once it serves. Raises: DlcliError where it does not."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise DlcliError(f"a worker ended: {describe_exit(self.process.wait())}")
        reply = json.loads(line)
        if "error" in reply:
            self.process.wait()
            raise DlcliError(reply["error"], hint=reply["hint"])
        models: list[dict[str, Any]] = reply["models"]
        return models


def main(args: Sequence[str]) -> None:
    """Serve as a worker: read on stdin what, and write one line of JSON once it is ready."""
    call = json.loads(sys.stdin.buffer.read())
    config = ServeConfig.model_validate(call["config"])
    try:
        with (
            raising_signals(),
            opened_server(
                [recognize(Path(path)) for path in call["paths"]],
                config,
                trust=call["trust"],
                access_log=call["access_log"],
                bound=socket.socket(fileno=call["socket"]),
            ) as (server, bound, models),
        ):
            _say({"models": [model.metadata([model.version]) for model in models.all()]})
            server.run([bound])
    except DlcliError as exc:
        _say({"error": exc.message, "hint": exc.hint})
    except KeyboardInterrupt:  # the signal again, after the requests in progress were answered
        return


def _say(reply: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()
