"""A run's settings and record: read, migrated and validated once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from dlcli import __version__
from dlcli.config import TrainConfig
from dlcli.config.migrate import migrate
from dlcli.errors import DlcliError
from dlcli.files import write_text
from dlcli.runs.folder import RunFolder, run_of
from dlcli.settings import dump_yaml, flat, load_yaml, merge, validate


@dataclass(frozen=True)
class SavedRun:
    """A run as it was when `read_run` read its folder.

    ``stored`` are the settings of its config.yaml, ``config`` those to resume with (see `with_changes`).
    ``record`` is run.json. ``version`` is that of the dlcli that wrote config.yaml.
    """

    folder: RunFolder
    stored: TrainConfig
    config: TrainConfig
    record: Mapping[str, Any]
    version: str

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

    def _absolute(self, path: str) -> str:
        """Return a path of the settings: older versions wrote it relative to the folder of the start."""
        return os.path.normpath(os.path.join(str(self.record.get("cwd", "")), path))

    def write_settings(self) -> None:
        """Write ``config`` to config.yaml, and the version that its keys are of to run.json.

        Migrated settings are written before the version and changed ones after it: a process that dies
        in between leaves settings of the same meaning. Raises: DlcliError.
        """
        if self.version != __version__:
            write_text(self.folder.config, dump_yaml(self.stored))
            self.folder.update_record(settings_version=__version__)
        write_text(self.folder.config, dump_yaml(self.config))


def read_run(folder: RunFolder) -> SavedRun:
    """Read the run in a folder. Raises: DlcliError, UsageError when its files are damaged."""
    record = folder.read_record()
    config = validate(TrainConfig, read_settings(folder, record))
    return SavedRun(folder, config, config, record, _settings_version(folder, record))


def read_settings(folder: RunFolder, record: Mapping[str, Any]) -> dict[str, Any]:
    """Read a run's settings, migrated but not validated. Raises: DlcliError, UsageError."""
    return migrate(TrainConfig, load_yaml(folder.config), version=_settings_version(folder, record))


def read_run_of(artifact: Path) -> SavedRun | None:
    """Read the run that an artifact lies in; None if it lies in none. Raises: DlcliError, UsageError."""
    folder = run_of(artifact)
    return None if folder is None else read_run(folder)


def _settings_version(folder: RunFolder, record: Mapping[str, Any]) -> str:
    versions = record.get("versions", {})
    first = versions.get("dlcli", "0.1.0") if isinstance(versions, Mapping) else None
    version = record.get("settings_version", first)
    try:
        Version(str(version))
    except InvalidVersion:
        raise DlcliError(f"{folder.record} is damaged: {version!r} is not a version") from None
    return str(version)
