"""What a run that goes on may be told, and what is said of one that is finished."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlcli.errors import UsageError
from dlcli.runs.folder import RunFolder, as_typed, read_events, resume_command
from dlcli.runs.saved import SavedRun
from dlcli.settings import flat, merge

# What a resumed run may be told: nothing here changes what a step sees, but for what dividing changes.
_MAY_CHANGE = {
    "data.workers", "data.cache", "data.offline", "data.data_dir", "fit.epochs", "fit.max_steps",
    "fit.max_time", "fit.device", "fit.grad_accum_steps", "fit.grad_checkpointing", "fit.compile",
    "fit.patience", "fit.max_bad_steps", "fit.checkpoint_every", "fit.keep_states", "fit.keep_best",
    "fit.tensorboard", "fit.sinks", "fit.histograms", "fit.log_every", "launch.devices", "launch.nnodes",
    "launch.rdzv_endpoint", "launch.max_restarts", "launch.timeout_s",
}  # fmt: skip
# The only settings of model and data that --force can change: the record holds what came of the others.
_NOT_BUILT = {"model.freeze", "model.unfreeze"}
_NOT_FITTED = _MAY_CHANGE | {"data.data", "data.balance", "data.on_bad_sample"}


def with_changes(saved: SavedRun, values: dict[str, Any], *, force: bool) -> SavedRun:
    """The run with settings laid over its own, where a resume may change them.

    Raises: UsageError with the differences when they change what is learnt, unless forced; and, forced
    or not, for those that the run could not follow.
    """
    changed = saved.with_changes(values)
    run, own, changes = saved.folder, flat(saved.stored), changed.changes
    _check_epochs(run, changes.get("fit.epochs"))
    strange = {k: f"{k}: {own[k]} -> {new}" for k, new in changes.items() if k not in _MAY_CHANGE}
    fixed = [line for key, line in strange.items() if _is_fixed(key)]
    if fixed and force:
        raise UsageError(
            f"no run can change its model or its encoders: {'; '.join(fixed)}",
            hint=f"start a new run from its weights: --weights {as_typed(run.best)}",
        )
    if strange and not force:
        forced = "" if fixed else "add --force to change the rest of the run, "
        lines = "; ".join(strange.values())
        raise UsageError(
            f"--resume goes on with the run's own settings, and these differ: {lines}",
            hint=f"leave them out, {forced}or start a new run from its weights: "
            f"--weights {as_typed(run.best)}",
        )
    return changed


def _check_epochs(run: RunFolder, epochs: int | None) -> None:
    """Raises: UsageError for fewer epochs than were trained: a typing error would end the run."""
    done = max((e["epoch"] for e in _epochs_of(run)), default=0)
    if epochs is not None and epochs < done:
        raise UsageError(
            f"--epochs {epochs}: run {run.name} has trained {done} epochs already",
            hint=f"give {done} or more, or leave it out to go on as planned",
        )


def _epochs_of(run: RunFolder) -> list[dict[str, Any]]:
    events = read_events(run.metrics) if run.metrics.is_file() else []
    return [event for event in events if event["event"] == "EpochDone"]


def _is_fixed(key: str) -> bool:
    """Whether the run's record decides it: its model and what was fitted on its training split."""
    group = key.partition(".")[0]
    return (group == "model" and key not in _NOT_BUILT) or (group == "data" and key not in _NOT_FITTED)


def is_finished(record: Mapping[str, Any], said: dict[str, Any]) -> bool:
    """Whether a run has ended and nothing that was said lets it train on."""
    if record.get("status") != "finished":
        return False
    told = merge({"fit": {}}, said)["fit"]
    return told.get(_what_goes_on(record)) is None


def _what_goes_on(record: Mapping[str, Any]) -> str:
    """The setting that lets a finished run train on: more epochs do not undo an early stop."""
    reason = "patience" if record.get("stopped_early") else record.get("reason")
    return {"patience": "patience", "steps": "max_steps", "time": "max_time"}.get(reason or "", "epochs")


def say_finished(run: RunFolder, record: Mapping[str, Any], as_json: bool) -> None:
    """Tell that there is nothing left to do, and what would be."""
    from dlcli.ui.console import stdout
    from dlcli.ui.json_output import print_json
    from dlcli.wording import printable

    if as_json:
        facts = {"run": str(run.path), "artifact": str(run.best), "status": "finished"}
        print_json({"command": "train", **facts})
        return
    early = "stopped early" if record.get("stopped_early") else "is finished"
    setting, done = _what_goes_on(record), record.get("epochs_done")
    beyond = f" beyond epoch {done}" if setting == "epochs" and done else ""
    value = "2h, the whole run's time" if setting == "max_time" else "N"
    option = f"--{setting.replace('_', '-')} {value}"
    for line in (
        f"run {run.name} {early}: {run.best}",
        f"to train on{beyond}: {resume_command(run)} {option}",
    ):
        stdout().print(printable(line), soft_wrap=True)
