"""The processes of a study on a Ray cluster: each task starts the one that `--workers` starts here."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli import __version__
from dlcli.commands.tune_session.workers import Ended, Workers, interrupt, worker_command
from dlcli.config import TrainConfig
from dlcli.errors import DlcliError
from dlcli.events import Emit, Warned
from dlcli.files import writing
from dlcli.settings import flat, validate
from dlcli.trust import allowed_code
from dlcli.tune.study import Study
from dlcli.wording import first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

_POLL_S = 0.3
_APPEARS_S = 30.0  # until a file of another machine is seen: network file systems cache folders
_TAIL_BYTES = 2000  # of what a process wrote, at its end
_REFUSED = 1


@dataclass(frozen=True)
class Job:
    """What a task needs to know; all paths are absolute.

    ``token`` is a file of the study that is there while the command runs. A node on which it is missing
    does not share the folder; where it goes, the task ends. ``needed`` are the files and folders of the
    settings.
    """

    folder: Path
    token: Path
    needed: tuple[Path, ...]
    code: tuple[str, ...]
    gpus: float
    version: str = __version__


@dataclass
class RayWorkers(Workers):
    """Tasks of a Ray cluster that this process is connected with."""

    ray: Any
    job: Job
    cpus: int
    _tasks: list[Any] = field(default_factory=list)

    def start(self) -> None:
        options = {"num_cpus": self.cpus, "num_gpus": self.job.gpus, "max_retries": 0}
        self._tasks.append(self.ray.remote(**options)(work_there).remote(self.job))

    def running(self) -> int:
        return len(self._tasks)

    def take_ended(self) -> list[Ended]:
        if not self._tasks:
            return []
        over, self._tasks = self.ray.wait(self._tasks, num_returns=len(self._tasks), timeout=0)
        return [self._end_of(task) for task in over]

    def _end_of(self, task: Any) -> Ended:
        """Return how a task ended. Raises: DlcliError where a node cannot run it at all."""
        errors = self.ray.exceptions
        try:
            ended: Ended = self.ray.get(task)
            return ended
        except errors.RayTaskError as exc:
            raise DlcliError(
                f"a node of the Ray cluster cannot run a worker: {first_line(exc.cause)}",
                hint="install the same dlcli[tune,ray] on every node",
            ) from exc
        except errors.RayError as exc:
            return Ended(0, "", None, first_line(exc))

    def stop(self) -> None:
        # A cancel that reaches a task while it starts may be lost, and one without a node sees no file.
        self.job.token.unlink(missing_ok=True)
        try:
            for task in self._tasks:
                self.ray.cancel(task)
            if self._tasks:
                self.ray.wait(self._tasks, num_returns=len(self._tasks))
        finally:
            self.ray.shutdown()


def ray_workers(study: Study, show: Emit) -> RayWorkers:
    """Connect with the Ray cluster of ``RAY_ADDRESS``, or else of this machine. Raises: DlcliError."""
    import ray

    try:
        with _own_handlers():
            ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as exc:
        raise DlcliError(
            f"no Ray cluster could be reached: {first_line(exc)}",
            hint="ray start --head, on another machine of it ray start --address HOST:6379; "
            "or RAY_ADDRESS=HOST:6379",
        ) from exc
    requested, cpus = study.tune.gpus_per_trial, study.tune.cpus_per_trial
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    config = validate(TrainConfig, study.settings)
    gpus = requested if requested is not None else _gpus_of(config.fit.device, nodes)
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        show(Warned(f"no node of the Ray cluster has {cpus} CPUs and {gpus:g} GPUs: waiting for one"))
    folder = study.folder.path.resolve()
    token = folder / f".ray-{secrets.token_hex(8)}"
    with writing(token):
        token.touch()
    paths = [Path(value) for value in flat(config).values() if isinstance(value, str)]
    needed = tuple(path for path in paths if path.is_absolute() and path.exists())
    return RayWorkers(ray, Job(folder, token, needed, tuple(allowed_code()), gpus), cpus)


def _gpus_of(device: str, nodes: Sequence[dict[str, float]]) -> float:
    """Return the GPUs of a trial: one, where there are any and the trials are not for the CPU."""
    wanted = device != "cpu" and any(node.get("GPU", 0) for node in nodes)
    return 1.0 if wanted or device.startswith("cuda") else 0.0


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Context after which signals are handled as before: Ray takes SIGTERM for itself."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def work_there(job: Job) -> Ended:
    """Work on a study, in a process of this node, until no trial is left or the token is gone."""
    host = socket.gethostname()
    if refusal := _refusal(job):
        return Ended(0, host, _REFUSED, refusal)
    environ = dict(os.environ)
    if job.gpus == 0:
        environ["CUDA_VISIBLE_DEVICES"] = ""  # what was not asked for is another task's
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            # Not the task's search path: Ray has put packages of its own and the driver's folder on it.
            worker_command(job.folder, job.code, own_path=True),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environ,
            start_new_session=True,
        )
        try:
            while child.poll() is None and job.token.exists():
                time.sleep(_POLL_S)
        finally:
            if child.poll() is None:
                interrupt(child)
            code = child.wait()
        output.seek(max(output.seek(0, os.SEEK_END) - _TAIL_BYTES, 0))
        message = output.read().decode("utf-8", "replace").strip()
    return Ended(child.pid, host, code, message.rpartition("\n")[2].removeprefix("error: "))


def _refusal(job: Job) -> str:
    """Say why a node cannot work on a study, else ""."""
    if __version__ != job.version:
        return f"dlcli {__version__} is installed there, and {job.version} here"
    deadline = time.monotonic() + _APPEARS_S
    while not job.token.exists():
        if time.monotonic() >= deadline:
            return f"it does not share the folder {job.folder}"
        with suppress(OSError):
            os.listdir(job.folder)  # what is cached of the folder is read anew
        time.sleep(_POLL_S)
    missing = [str(path) for path in job.needed if not path.exists()]
    return f"it has no {missing[0]}" if missing else ""
