"""Fine-tuning for `prune`, `quantize` and `ship`: a run of its own, shown and logged like any other."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.commands.recording import record_evaluations
from dlcli.commands.train_session.run import train_saved
from dlcli.errors import DlcliError, Interrupted
from dlcli.runs.folder import RunFolder, resume_command, safe_name
from dlcli.runs.locks import run_lock
from dlcli.runs.unfinished import unfinished_finetuning

if TYPE_CHECKING:
    from dlcli.events import Emit
    from dlcli.training.finetune import Finetuner
    from dlcli.training.plan import Plan
    from dlcli.training.prepare import PreparedRun


def make_finetuner(runs_dir: Path, show: Emit) -> Finetuner:
    """Return the function that trains a plan in a new run below ``runs_dir``.

    It writes metrics.jsonl and the plots, and warns of earlier runs of the same model or name that have
    not ended. It raises Interrupted after a signal, with the command that
    resumes the run, and DlcliError.
    """

    def finetune(plan: Plan, name: str) -> RunFolder:
        from dlcli.events import Warned

        for left in unfinished_finetuning(runs_dir, plan.parent or "", name):
            show(
                Warned(
                    f"an earlier fine-tuning has not ended: run {left.name}. To resume that one: "
                    f"{resume_command(left)}; this one begins anew"
                )
            )
        return _new(plan, runs_dir, name, show)

    return finetune


def make_resuming_finetuner(runs_dir: Path, show: Emit) -> Finetuner:
    """Return the function that trains a plan in the run of its name below ``runs_dir``.

    A run that has finished is returned as it is, and one that was stopped goes on from its last state,
    so ``runs_dir`` belongs to one command alone. It raises as that of `make_finetuner`.
    """

    def finetune(plan: Plan, name: str) -> RunFolder:
        run = RunFolder(runs_dir / safe_name(name))
        if not run.record.is_file():
            shutil.rmtree(run.path, ignore_errors=True)  # a process died before it had begun the run
            return _new(plan, runs_dir, name, show)
        if run.read_record().get("status") != "finished":
            _train(run, show)
        return run

    return finetune


def _new(plan: Plan, runs_dir: Path, name: str, show: Emit) -> RunFolder:
    from dlcli.training.prepare import prepare_run
    from dlcli.training.run import new_run

    prepared = prepare_run(plan)
    return _train(new_run(prepared, runs_dir, name), show, prepared)


def _train(run: RunFolder, show: Emit, prepared: PreparedRun | None = None) -> RunFolder:
    """Train a run to its end, from its last state or as it was ``prepared``. Raises: Interrupted."""
    from dlcli.runs.saved import read_run
    from dlcli.training.distributed.world import ALONE
    from dlcli.ui.plots.run import save_curves

    with run_lock(run.path):
        result = train_saved(read_run(run), ALONE, show, prepared=prepared)
    if result.fit.signum is not None:
        raise Interrupted(
            f"interrupted at step {result.fit.progress.step} of fine-tuning; the state is saved in "
            f"{run.state}",
            signum=result.fit.signum,
            hint=f"resume the fine-tuning with: {resume_command(run)}",
        )
    with suppress(DlcliError):  # the model is there without its curves
        save_curves(run.plots / "curves.png", run.metrics)
    if result.validation is not None:
        record_evaluations(run, [result.validation], "train", show)
    return run
