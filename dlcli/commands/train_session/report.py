"""Report a finished run: its scores and plots, or that nothing is left to train."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli.commands.recording import record_evaluations
from dlcli.config import TrainConfig
from dlcli.errors import DlcliError, Interrupted
from dlcli.runs.folder import DEFAULT_ROOT, RunFolder, as_typed, newest_run, resume_command
from dlcli.transforms import FAKE_QUANT

if TYPE_CHECKING:
    from dlcli.events import Emit
    from dlcli.training.run import TrainResult

# Why a run ended whose model is fitted whole: see `dlcli.training.estimators`.
FITTED = "fitted"


@dataclass(frozen=True)
class Screen:
    """What a training shows: its progress unless ``quiet``, its result unless a program called it.

    With ``as_json`` the result is one JSON object, and warnings are all of the progress.
    """

    quiet: bool = False
    as_json: bool = False
    result: bool = True

    @property
    def flags(self) -> list[str]:
        """The arguments by which the process of a rank has the same."""
        given = {"--quiet": self.quiet, "--json": self.as_json, "--no-result": not self.result}
        return [flag for flag, is_given in given.items() if is_given]

    @classmethod
    def of(cls, argv: Sequence[str]) -> Screen:
        """The same from arguments."""
        return cls("--quiet" in argv, "--json" in argv, "--no-result" not in argv)


def report_result(result: TrainResult, plots: list[Path], config: TrainConfig, screen: Screen) -> None:
    """Print what a run gave. Raises: Interrupted when a signal ended it, or is to end what follows."""
    from dlcli.training.loop.phases import time_record
    from dlcli.ui.json_output import print_json
    from dlcli.ui.tables import print_key_values
    from dlcli.ui.translations import print_translations
    from dlcli.wording import plural

    run, progress = result.run, result.fit.progress
    if result.fit.signum is not None:
        raise Interrupted(
            f"interrupted at step {progress.step}; the state is saved in {run.state}",
            signum=result.fit.signum,
            hint=f"resume with: {resume_command(run)}",
        )
    assert result.validation is not None  # it is missing only after a signal
    if not screen.result:
        if result.fit.late_signum is not None:
            raise Interrupted("interrupted", signum=result.fit.late_signum)
        return
    if screen.as_json:
        print_json(
            {
                "command": "train",
                "run": str(run.path),
                "artifact": str(run.best),
                **({"adapter": str(run.adapter)} if run.adapter.is_file() else {}),
                "status": "finished",
                "stopped_early": progress.stopped_early,
                "reason": progress.reason or "epochs",
                "epochs": progress.epochs_begun,
                "steps": progress.step,
                "best_epoch": progress.best_epoch,
                "elapsed_s": round(progress.elapsed_s, 3),
                "skipped_steps": progress.skipped,
                "time": time_record(progress),
                "metrics": {"val": result.validation.metrics},
                "baselines": [asdict(row) for row in result.validation.baselines],
                "translations": [asdict(row) for row in result.validation.translations],
                "bad_samples": result.bad_samples,
                "warnings": list(result.warnings),
                "plots": [str(plot) for plot in plots],
                "report": str(run.report) if run.report.is_file() else None,
            }
        )
        return
    end = {
        "patience": ", stopped early",
        "pruned": ", pruned",
        "steps": ", ended by --max-steps",
        "time": ", ended by --max-time",
    }.get(progress.reason, "")
    overfit = config.fit.overfit_batches is not None
    epochs = ("best epoch", f"{progress.best_epoch} of {progress.epochs_begun}{end}")
    rows = [
        ("fitted", plural(progress.step, "iteration")) if progress.reason == FITTED else epochs,
        *((f"val {name}", value) for name, value in _scores(result)),
        *_baseline(result),
        *([("note", "a test: these are the training samples")] if overfit else []),
        ("model", str(run.best)),
        *([("adapter", str(run.adapter))] if run.adapter.is_file() else []),
        ("plots", f"{run.plots}{os.sep}{', '.join(p.name for p in plots)}" if plots else "none"),
        *([("report", str(run.report))] if run.report.is_file() else []),
        *(("next" if not i else "", command) for i, command in enumerate(_next_commands(run))),
    ]
    print_key_values(f"run {run.name}", rows)
    print_translations(result.validation.translations, "val")


def report_finished(run: RunFolder, record: Mapping[str, Any], screen: Screen) -> None:
    """Print that a run is finished, and the command that trains it further."""
    from dlcli.ui.console import stdout
    from dlcli.ui.json_output import print_json
    from dlcli.wording import printable

    if not screen.result:
        return
    if screen.as_json:
        facts = {"run": str(run.path), "artifact": str(run.best), "status": "finished"}
        print_json({"command": "train", **facts})
        return
    if record.get("reason") == FITTED:
        stdout().print(printable(f"run {run.name} is finished: {run.best}"), soft_wrap=True)
        return
    end = "stopped early" if record.get("stopped_early") else "is finished"
    setting, epochs = option_to_continue(record) or "epochs", record.get("epochs_done")
    beyond = f" beyond epoch {epochs}" if setting == "epochs" and epochs else ""
    value = "2h, the whole run's time" if setting == "max_time" else "N"
    option = f"--{setting.replace('_', '-')} {value}"
    for line in (
        f"run {run.name} {end}: {run.best}",
        f"to train it further{beyond}: {resume_command(run)} {option}",
    ):
        stdout().print(printable(line), soft_wrap=True)


def option_to_continue(record: Mapping[str, Any]) -> str | None:
    """Return the setting of ``fit`` that extends a finished run: epochs do not undo an early stop.

    None for a model that is fitted whole: its run has no more steps.
    """
    if record.get("reason") == FITTED:
        return None
    reason = "patience" if record.get("stopped_early") else record.get("reason")
    return {"patience": "patience", "steps": "max_steps", "time": "max_time"}.get(reason or "", "epochs")


def illustrate(result: TrainResult, emit: Emit) -> list[Path]:
    """Draw the plots of a run and write its report; returns the plots. What fails is a warning."""
    plots = draw_plots(result, emit)
    record_evaluations(
        result.run, [] if result.validation is None else [result.validation], "train", emit
    )
    return plots


def draw_plots(result: TrainResult, emit: Emit) -> list[Path]:
    """Draw the plots of a run, unless it was interrupted; a plot that fails is a warning."""
    from dlcli.events import Warned
    from dlcli.ui.plots.run import save_curves, save_result

    if result.validation is None:
        return []
    run, validation = result.run, result.validation
    plots: list[Path] = []
    draws: list[Callable[[], list[Path]]] = [lambda: save_result(run.plots, validation, run.name)]
    if result.fit.progress.reason != FITTED:  # a fit has no epochs to draw
        draws.insert(0, lambda: [save_curves(run.plots / "curves.png", run.metrics)])
    for draw in draws:
        try:
            plots += draw()
        except DlcliError as exc:
            emit(Warned(f"no plot: {exc.message}"))
    return plots


def _next_commands(run: RunFolder) -> list[str]:
    """Commands for the run's model, which name the run unless it is their default."""
    root = run.path.parent
    name = "" if root == DEFAULT_ROOT and newest_run(root) == run else f" {as_typed(run.path)}"
    records = (run.read_record().get("plan") or {}).get("transforms", ())
    simulated = any(record.get("kind") == FAKE_QUANT for record in records)
    last = f"dlcli quantize{name}" if simulated else f"dlcli export{name} --onnx"
    return [f"dlcli eval{name}", f"dlcli predict{name} FILE", last]


def _baseline(result: TrainResult) -> list[tuple[str, str]]:
    """The simple baseline with the best value, the verdict, and others better than the model."""
    from dlcli.evaluation.baselines.compare import strongest
    from dlcli.ui.differences import baselines_sentence

    assert result.validation is not None
    rows = result.validation.baselines
    best = strongest(rows)
    return [] if best is None else [("baseline", baselines_sentence(best, rows))]


def _scores(result: TrainResult) -> list[tuple[str, str]]:
    """The metric that selected the best epoch, with the number of samples, and the loss."""
    from dlcli.ui.text import figure

    assert result.validation is not None
    metrics, monitor = result.validation.metrics, result.monitor
    rows = [(monitor, f"{figure(metrics[monitor])} on {result.validation.samples:,} samples")]
    return [*rows, ("loss", figure(metrics["loss"]))] if monitor != "loss" else rows
