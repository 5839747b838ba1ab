"""Fine-tuning for `prune` and `quantize`: a run of its own, shown and logged like any other."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.commands.recording import record_evaluations
from dlcli.errors import DlcliError, Interrupted
from dlcli.runs.folder import resume_command
from dlcli.runs.locks import run_lock
from dlcli.runs.unfinished import unfinished_finetuning

if TYPE_CHECKING:
    from dlcli.events import Emit
    from dlcli.training.finetune import Finetuner
    from dlcli.training.plan import Plan
    from dlcli.training.run import TrainResult


def make_finetuner(runs_dir: Path, show: Emit) -> Finetuner:
    """Return the function that trains a plan in a new run below ``runs_dir``.

    It writes metrics.jsonl and the plots, and warns of earlier runs of the same model or name that have
    not ended. It raises Interrupted after a signal, with the command that
    resumes the run, and DlcliError.
    """

    def finetune(plan: Plan, name: str) -> TrainResult:
        from dlcli.events import Warned
        from dlcli.training.prepare import prepare_run
        from dlcli.training.run import new_run, train
        from dlcli.ui.plots.run import save_curves
        from dlcli.ui.progress.run_sinks import run_sinks

        for left in unfinished_finetuning(runs_dir, plan.parent or "", name):
            show(
                Warned(
                    f"an earlier fine-tuning has not ended: run {left.name}. To resume that one: "
                    f"{resume_command(left)}; this one begins anew"
                )
            )
        prepared = prepare_run(plan)
        run = new_run(prepared, runs_dir, name)
        with run_lock(run.path), run_sinks(run, plan.config.fit, show) as emit:
            result = train(prepared, run, emit, state=None)
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
        return result

    return finetune
