"""A process that works on a study, started by `watch_workers`; no command of dlcli."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import typer

from dlcli.commands.tune_session.work import work
from dlcli.errors import DlcliError, Interrupted
from dlcli.trust import allowing
from dlcli.tune.study import StudyFolder, read_study
from dlcli.wording import printable_lines


def main(argv: list[str]) -> None:
    """Work on the study of the folder in ``argv[0]``; code of the names after it may run."""
    from dlcli.tune.trials import Trials
    from dlcli.ui.progress.study import study_view

    if os.name == "posix":  # a task of Ray blocks SIGINT, and its children inherit that
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    study = read_study(StudyFolder(Path(argv[0])))
    try:
        with allowing(*argv[1:]), study_view(study, True, False) as view:
            work(study, Trials(study), view, view.event)
    except KeyboardInterrupt:  # between two trials
        sys.exit(128 + signal.SIGINT)
    except DlcliError as exc:
        if not isinstance(exc, Interrupted):
            typer.echo(f"error: {printable_lines(exc.message)}", err=True)
        sys.exit(exc.exit_code)
