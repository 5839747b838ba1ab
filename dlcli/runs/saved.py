"""A run's settings and record: read, migrated and validated once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from dlcli import __version__
from dlcli.checksums import change_message, renew_checksums
from dlcli.config import TrainConfig
from dlcli.config.migrate import migrate
from dlcli.errors import DlcliError
from dlcli.files import read_json, write_text
from dlcli.runs.code import changed_code, copy_code
from dlcli.runs.folder import RunFolder, read_events, run_of
from dlcli.settings import dump_yaml, fields_of, flat, load_yaml, merge, parse_yaml, validate

_SETTINGS = "settings"  # entry of run.json: texts of which config.yaml is one
# Settings that a resume may change and that decide where a run ends, or the schedule.
_LIMITS = ("fit.epochs", "fit.max_steps", "fit.max_time", "fit.patience")


@dataclass(frozen=True)
class SavedRun:
    """A run as it was when `read_run` read its folder.

    ``stored`` are the settings that dlcli wrote, ``config`` those to resume with: what config.yaml holds
    now, with `with_changes`. ``record`` is run.json. ``version`` is that of the dlcli that wrote the
    settings. ``edits`` are sentences about files that somebody has changed since dlcli wrote them; a
    config.yaml is none of them, since what was changed there is in `changes`.
    """

    folder: RunFolder
    stored: TrainConfig
    config: TrainConfig
    record: Mapping[str, Any]
    version: str
    edits: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def changes(self) -> dict[str, Any]:
        """Dotted key to value of the settings in which ``config`` differs from ``stored``."""
        stored = flat(self.stored)
        return {key: value for key, value in flat(self.config).items() if value != stored[key]}

    def with_changes(self, values: Mapping[str, Any]) -> SavedRun:
        """Return the run with nested settings merged into its own. Raises: UsageError."""
        if not values:
            return self
        config = validate(TrainConfig, merge(self.config.model_dump(), values))
        own, given = self.stored.data.data, config.data.data
        if own and given and self._absolute(own) == os.path.abspath(given):
            data = config.data.model_copy(update={"data": own})  # the same place, spelled differently
            config = config.model_copy(update={"data": data})
        return replace(self, config=config)

    def resumed_at(self, step: int) -> SavedRun:
        """Return the run with changed epochs recorded as those from ``step`` on, so that it repeats."""
        epochs = self.config.fit.epochs
        if epochs == self.stored.fit.epochs:
            return self
        fit = self.stored.fit.with_epochs_from(step, epochs)
        fit = self.config.fit.model_copy(update={"epochs_history": fit.epochs_history})
        return replace(self, config=self.config.model_copy(update={"fit": fit}))

    def _absolute(self, path: str) -> str:
        """Return a path of the settings: older versions wrote it relative to the folder of the start."""
        return os.path.normpath(os.path.join(str(self.record.get("cwd", "")), path))

    def write_settings(self) -> None:
        """Write ``config`` to config.yaml and run.json, and the version that its keys are of.

        Migrated settings are written before the version and changed ones after it: a process that dies
        in between leaves settings of the same meaning. ``edits`` are from now on what dlcli wrote.
        Raises: DlcliError.
        """
        if self.edits:
            for path in (self.folder.record, self.folder.splits):
                renew_checksums(path)
            self.folder.update_record(**copy_code(self.folder, self.config))
        own = dump_yaml(self.stored)
        if self.version != __version__:
            self._write_text(own, settings_version=__version__)
        if self.changes or self.record.get(_SETTINGS) != [own]:
            self._write_text(dump_yaml(self.config))

    def _write_text(self, text: str, **values: Any) -> None:
        """Replace config.yaml. Until it and ``values`` are written, run.json knows both its texts."""
        before = self.folder.config.read_text(encoding="utf-8")
        self.folder.update_record(**{_SETTINGS: [before, text]})
        write_text(self.folder.config, text)
        self.folder.update_record(**{_SETTINGS: [text]}, **values)


def read_run(folder: RunFolder) -> SavedRun:
    """Read the run in a folder. Raises: DlcliError, UsageError when its files are damaged."""
    record = folder.read_record()
    values, version = _stored_settings(folder), _settings_version(folder, record)
    config = validate(TrainConfig, migrate(TrainConfig, values, version=version))
    stored = config
    known = _known_settings(folder, record)
    if known and values not in known:
        stored = validate(TrainConfig, migrate(TrainConfig, known[-1], version=version))
    return SavedRun(folder, stored, config, record, version, tuple(_edits(folder, record)))


def _stored_settings(folder: RunFolder) -> dict[str, Any]:
    """Return what config.yaml says. Raises: DlcliError for a pipe, which a reader would wait for."""
    if folder.config.exists() and not folder.config.is_file():
        raise DlcliError(f"{folder.config} is no regular file, so run {folder.name} is damaged")
    return load_yaml(folder.config)


def settings_entry(config: TrainConfig) -> dict[str, Any]:
    """Return the entry of run.json by which a config.yaml that somebody changes is known."""
    return {_SETTINGS: [dump_yaml(config)]}


def _known_settings(folder: RunFolder, record: Mapping[str, Any]) -> list[Any]:
    """Return the settings that dlcli wrote, oldest first; none in runs that older versions began."""
    texts = record.get(_SETTINGS, [])
    try:
        return [parse_yaml(str(text)) for text in texts]
    except (TypeError, ValueError) as exc:
        raise DlcliError(f"{folder.record} is damaged: its settings are {texts!r:.40}") from exc


def _edits(folder: RunFolder, record: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each file of a run that somebody has changed. Raises: DlcliError."""
    splits = read_json(folder.splits) if folder.splits.is_file() else {}
    files = {folder.record: record, folder.splits: splits if isinstance(splits, dict) else {}}
    for path, values in files.items():
        if message := change_message(path, values):
            yield message
    yield from changed_code(folder, record)


def resume_changes(folder: RunFolder) -> list[str]:
    """Describe the settings that resumes of a run changed and that its config.yaml does not repeat.

    The events of a run hold the settings of each session.
    """
    events = read_events(folder.metrics) if folder.metrics.is_file() else []
    # Of several sessions from one step the last one trained on.
    sessions = {
        event.get("resumed_step", 0): event.get("settings", {})
        for event in events
        if event["event"] == "RunStarted"
    }
    lines: list[str] = []
    for (_, before), (step, after) in pairwise(sessions.items()):
        recorded = bool(after.get("fit.epochs_history")) and after.get("fit.swa") is None
        for key, info in fields_of(TrainConfig).items():
            matters = key in _LIMITS or info.json_schema_extra["on_resume"] != "allowed"
            if not matters or key not in before or (key == "fit.epochs" and recorded):
                continue
            if before[key] != after.get(key):
                lines.append(f"{key}: {before[key]} -> {after.get(key)} at step {step:,}")
    return lines


def read_settings(folder: RunFolder, record: Mapping[str, Any]) -> dict[str, Any]:
    """Read a run's settings, migrated but not validated. Raises: DlcliError, UsageError."""
    return migrate(TrainConfig, _stored_settings(folder), version=_settings_version(folder, record))


def read_run_of(artifact: Path) -> SavedRun | None:
    """Read the run that an artifact lies in, with the settings that dlcli wrote; None without a run.

    Raises: DlcliError, UsageError.
    """
    folder = run_of(artifact)
    if folder is None:
        return None
    saved = read_run(folder)
    return replace(saved, config=saved.stored)


def _settings_version(folder: RunFolder, record: Mapping[str, Any]) -> str:
    versions = record.get("versions", {})
    first = versions.get("dlcli", "0.1.0") if isinstance(versions, Mapping) else None
    version = record.get("settings_version", first)
    try:
        Version(str(version))
    except InvalidVersion:
        raise DlcliError(f"{folder.record} is damaged: {version!r} is not a version") from None
    return str(version)
