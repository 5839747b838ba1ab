"""Resume a run: which settings may change, and whether it is finished."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlcli.commands.options import Settings
from dlcli.commands.train_session.join import join_group
from dlcli.commands.train_session.report import Screen, option_to_continue, report_finished
from dlcli.commands.train_session.run import train_run
from dlcli.config import TrainConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.runs.folder import RunFolder, as_typed, read_events, resume_command
from dlcli.runs.saved import SavedRun, read_run
from dlcli.settings import fields_of, flat, merge

# What the model is and what was fitted on the training split are in the run's record.
_RECORDED_GROUPS = ("model", "data")


def resume_run(run: RunFolder, settings: Settings[TrainConfig], screen: Screen, *, force: bool) -> None:
    """Train a run from its last state, unless it is finished. Raises: DlcliError, Interrupted."""
    from dlcli.training.distributed.external_launcher import external_group

    settings.resolve()  # unknown settings are an error for a finished run too
    group = external_group()
    record = run.read_record()
    saved = with_changes(read_run(run), settings.overrides, force=force)
    if is_finished(record, settings.overrides):
        _refuse_unused(saved, record)
        if group is None or group.main:
            report_finished(run, record, screen)
        return
    if group is None:
        train_run(saved, screen)
        return
    if saved.changes:
        raise UsageError(
            f"--resume under {group.launcher} takes the run's own settings",
            hint="leave the others out, or start a new run from its weights: --weights RUN",
        )
    join_group(group, saved.config, lambda: run, screen)


def is_finished(record: Mapping[str, Any], overrides: Mapping[str, Any]) -> bool:
    """Return whether a run is finished and no setting in ``overrides`` extends it."""
    if record.get("status") != "finished":
        return False
    fit, option = merge({"fit": {}}, overrides)["fit"], option_to_continue(record)
    return option is None or fit.get(option) is None


def with_changes(saved: SavedRun, overrides: dict[str, Any], *, force: bool) -> SavedRun:
    """Return the run with ``overrides`` merged into its settings.

    Which settings a resumed run may change is declared next to each (see `dlcli.settings.setting`).
    Raises: UsageError that lists the others, and also under ``force`` for those of the model and of
    what was fitted on the training split; DlcliError for files that were edited, without ``force``.
    """
    if saved.edits and not force:
        raise DlcliError(
            saved.edits[0],
            hint="put it back as it was, or add --force to resume with what it holds now",
        )
    changed = saved.with_changes(overrides)
    run, own, changes = saved.folder, flat(saved.stored), changed.changes
    _check_limits(run, changes)
    edited = flat(saved.config)  # saved.changes are those that somebody wrote into config.yaml
    refused = {
        key: f"{key}: {own[key]} -> {new}"
        + (f" in {run.config}" if key in saved.changes and edited[key] == new else "")
        for key, new in changes.items()
        if _on_resume(key) != "allowed"
    }
    fixed = [line for key, line in refused.items() if _on_resume(key) == "fixed"]
    if fixed and force:
        raise UsageError(
            f"no run can change its model or its encoders: {'; '.join(fixed)}",
            hint=f"start a new run from its weights: --weights {as_typed(run.best)}",
        )
    if refused and not force:
        forced = "" if fixed else "add --force to change the rest of the run, "
        lines = "; ".join(refused.values())
        raise UsageError(
            f"--resume takes the run's own settings, and these differ: {lines}",
            hint=f"{_way_back(saved)}, {forced}or start a new run from its weights: "
            f"--weights {as_typed(run.best)}",
        )
    return changed


def _way_back(saved: SavedRun) -> str:
    """Return how the settings are the run's own again."""
    return f"put {saved.folder.config} back as it was" if saved.changes else "leave them out"


def _on_resume(key: str) -> str:
    """Return "allowed", "forced" or "fixed" for a setting."""
    declared: str | None = fields_of(TrainConfig)[key].json_schema_extra["on_resume"]
    return declared or ("fixed" if key.partition(".")[0] in _RECORDED_GROUPS else "forced")


def _refuse_unused(saved: SavedRun, record: Mapping[str, Any]) -> None:
    """Raises: UsageError for changed settings of a finished run, none of which trains it further."""
    if saved.changes:
        own = flat(saved.stored)
        lines = "; ".join(f"{key}: {own[key]} -> {new}" for key, new in saved.changes.items())
        option, further = option_to_continue(record), "; its model was fitted whole: start a new run"
        if option is not None:
            command = f"{resume_command(saved.folder)} --{option.replace('_', '-')} N"
            further = f"; to train it further: {command}"
        raise UsageError(
            f"run {saved.name} is finished, so these settings would change nothing: {lines}",
            hint=f"leave them out{further}",
        )


def _check_limits(run: RunFolder, changes: Mapping[str, Any]) -> None:
    """Raises: UsageError for fewer epochs or steps than were trained, which would end the run."""
    epochs, max_steps = changes.get("fit.epochs"), changes.get("fit.max_steps")
    if epochs is None and max_steps is None:
        return
    events = read_events(run.metrics) if run.metrics.is_file() else []
    steps = [e for e in events if e["event"] in ("StepDone", "EpochDone")]
    begun = max((event["epoch"] for event in steps), default=0)
    if epochs is not None and epochs < begun:
        raise UsageError(
            f"--epochs {epochs}: run {run.name} is in epoch {begun} already",
            hint=f"give {begun} or more, or leave it out to resume as planned",
        )
    trained = max((event["step"] for event in steps), default=0)
    if max_steps is not None and max_steps < trained:
        raise UsageError(
            f"--max-steps {max_steps}: run {run.name} has done {trained:,} steps already",
            hint=f"give {trained} or more, or leave it out to resume as planned",
        )
