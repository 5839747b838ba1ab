"""Several processes that work on one study; each is what `dlcli tune --resume` is with one worker."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

from dlcli.commands.train_session.report import Screen
from dlcli.errors import DlcliError, Interrupted
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


def watch_workers(study: Study, trials: Trials, view: StudyView, screen: Screen) -> None:
    """Have processes train the trials until none is left. Raises: DlcliError, Interrupted.

    The trial of a process that is killed has failed, and another process takes its place.
    """
    children = [_start(study) for _ in range(min(study.tune.workers, study.trials))]
    try:
        while children:
            time.sleep(_POLL_S)
            view.update(trials.all())
            for child in [child for child in children if child.poll() is not None]:
                children.remove(child)
                if child.returncode < 0:
                    _fail_trial_of(child, study, trials)
                    children.append(_start(study))
                elif child.returncode != 0:
                    raise DlcliError(
                        f"a worker ended with {describe_exit(child.returncode)}",
                        hint=f"its trials are kept; go on with: {study.folder.resume_command}",
                    )
        view.update(trials.all())
    except KeyboardInterrupt as exc:
        raise Interrupted("interrupted", signum=signum_of(exc)) from exc
    finally:
        _stop(children)


def _start(study: Study) -> subprocess.Popen[bytes]:
    command = child_command(_MODULE, str(study.folder.path), *allowed_code())
    # A session of its own: Ctrl-C of the terminal reaches this process alone, which passes it on once.
    return subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL)


def _stop(children: list[subprocess.Popen[bytes]]) -> None:
    """Have processes save their trials and end."""
    for child in children:
        if os.name == "posix":
            child.send_signal(signal.SIGINT)
        else:
            child.terminate()
    for child in children:
        child.wait()


def _fail_trial_of(child: subprocess.Popen[bytes], study: Study, trials: Trials) -> None:
    """Record that the trial which a killed process worked on has failed."""
    holder = f"process {child.pid} on host "
    with trials.journal.locked():
        for trial in trials.all():
            claim = study.folder.claim(trial.number)
            if trial.status == "stopped" and lock_holder(claim).startswith(holder):
                reason = f"its process ended: {describe_exit(child.returncode)}"
                trials.finish(trial.number, "failed", reason=reason)
