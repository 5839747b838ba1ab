"""Several processes that work on one study; each is what `dlcli tune --resume` is with one worker."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.errors import DlcliError, Interrupted
from dlcli.events import Warned
from dlcli.runs.locks import lock_holder
from dlcli.signals import signum_of
from dlcli.subprocesses import child_command, describe_exit
from dlcli.trust import allowed_code
from dlcli.tune.study import Study

if TYPE_CHECKING:
    from dlcli.tune.trials import Trials
    from dlcli.ui.progress.study import StudyView

_MODULE = "dlcli.commands.tune_session.worker"
_POLL_S = 0.3
_LOST = 5  # in a row: whatever ends them would end the next ones too


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, None where it was lost with its machine, and why in words."""

    pid: int
    host: str
    code: int | None
    message: str = ""


class Workers(ABC):
    """The processes of a study, wherever they run."""

    @abstractmethod
    def start(self) -> None:
        """Have one more process work on the study."""

    @abstractmethod
    def running(self) -> int:
        """Return how many were started and have not been taken by `take_ended`."""

    @abstractmethod
    def take_ended(self) -> list[Ended]:
        """Return those that have ended since the last call."""

    @abstractmethod
    def stop(self) -> None:
        """Have all save their trials and end, and wait for that."""


@dataclass
class LocalWorkers(Workers):
    """Processes of this machine."""

    study: Study
    _children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        # A session of its own: Ctrl-C of the terminal reaches this process alone, which passes it on
        # once.
        command = worker_command(self.study.folder.path, allowed_code())
        self._children.append(
            subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL)
        )

    def running(self) -> int:
        return len(self._children)

    def take_ended(self) -> list[Ended]:
        over = [child for child in self._children if child.poll() is not None]
        self._children = [child for child in self._children if child not in over]
        return [Ended(child.pid, socket.gethostname(), child.returncode) for child in over]

    def stop(self) -> None:
        for child in self._children:
            interrupt(child)
        for child in self._children:
            child.wait()


def worker_command(folder: Path, code: Sequence[str], *, own_path: bool = False) -> list[str]:
    """Return the command of a process that works on the study of a folder; ``code`` may run."""
    return child_command(_MODULE, str(folder), *code, own_path=own_path)


def interrupt(child: subprocess.Popen[bytes]) -> None:
    """Have a process save its trial and end."""
    if os.name == "posix":
        child.send_signal(signal.SIGINT)
    else:
        child.terminate()


def watch_workers(study: Study, trials: Trials, view: StudyView, workers: Workers) -> None:
    """Have processes train the trials until none is left. Raises: DlcliError, Interrupted.

    The trial of a process that is killed has failed, and another process takes its place. That of a
    process that is lost with its machine has not: the next process resumes it.
    """
    lost: list[int] = []  # of the last losses, how many trials had ended
    try:
        for _ in range(min(study.tune.workers, study.trials)):
            workers.start()
        while workers.running():
            time.sleep(_POLL_S)
            view.update(trials.all())
            for one in workers.take_ended():
                if one.code == 0:
                    continue
                if one.code is None:
                    ended = sum(trial.status not in ("running", "stopped") for trial in trials.all())
                    lost = [*(before for before in lost if before == ended), ended]
                elif one.code < 0:
                    _fail_trial_of(one, study, trials)
                if len(lost) == _LOST or (one.code or 0) > 0:
                    raise _gave_up(one, study)
                if one.code is None:
                    view.event(Warned(f"a worker was lost, and another goes on: {one.message}"))
                workers.start()
        view.update(trials.all())
    except KeyboardInterrupt as exc:
        raise Interrupted("interrupted", signum=signum_of(exc)) from exc
    finally:
        workers.stop()


def _gave_up(ended: Ended, study: Study) -> DlcliError:
    """The error of a process whose end is no trial's."""
    how = f"{_LOST} workers were lost and no trial ended; the last one"
    if ended.code is not None:
        how = f"a worker on {ended.host} ended with {describe_exit(ended.code)}"
    return DlcliError(
        f"{how}: {ended.message}" if ended.message else how,
        hint=f"its trials are kept; go on with: {study.folder.resume_command}",
    )


def _fail_trial_of(ended: Ended, study: Study, trials: Trials) -> None:
    """Record that the trial which a killed process worked on has failed."""
    holder = f"process {ended.pid} on host {ended.host} "
    with trials.journal.locked():
        for trial in trials.all():
            claim = study.folder.claim(trial.number)
            if trial.status == "stopped" and lock_holder(claim).startswith(holder):
                reason = f"its process ended: {describe_exit(ended.code or 0)}"
                trials.finish(trial.number, "failed", reason=reason)
