"""Paths in the settings of a run, which lead to its files from any folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeGuard

from dlcli.config import TrainConfig
from dlcli.data.base import DataSource
from dlcli.data.sets.named import find_name
from dlcli.data.sources import open_undivided
from dlcli.errors import DlcliError
from dlcli.runs.folder import resume_command
from dlcli.runs.saved import SavedRun
from dlcli.trust import DATA_GROUP, names_code
from dlcli.zoo.names import hub_name


def with_absolute_paths(
    config: TrainConfig, source: DataSource, model: str, *, weights: str
) -> TrainConfig:
    """Make the paths of data, weights and a user's model absolute: a run may be resumed elsewhere.

    ``weights`` is where they come from: of the hub's, a name with the commit.
    """
    data: dict[str, Any] = {
        "data": source.origin,
        "data_dir": source.data_dir or config.data.data_dir,
        "class_names": source.options.get("class_names"),
        "args": source.options.get("args", {}),
    }
    if config.data.cache_dir is not None:
        data["cache_dir"] = os.path.abspath(config.data.cache_dir)
    named = {"name": model}
    if config.model.weights is not None:
        exists = os.path.exists(config.model.weights)
        named["weights"] = os.path.abspath(config.model.weights) if exists else weights
    if config.model.word_vectors is not None:
        named["word_vectors"] = os.path.abspath(config.model.word_vectors)
    return config.model_copy(
        update={
            "data": config.data.model_copy(update=data),
            "model": config.model.model_copy(update=named),
        }
    )


def with_recorded_paths(saved: SavedRun) -> TrainConfig:
    """The settings of a saved run, with paths that lead to its files from the current folder.

    Runs of older versions recorded them relative to the folder that they were started in. Where the data
    is not where it was, it may have moved with the folder that holds it: the same data is known by its
    fingerprint and its samples.
    """
    config, start = saved.config, Path(str(saved.record.get("cwd") or ""))
    data, weights = config.data, config.model.weights
    text = data.data
    if _is_path(text) and "data.data" not in saved.changes:
        path = start / text
        moved = Path(os.path.relpath(path, start))
        text = str((path if path.exists() or not moved.exists() else moved).absolute())
    folder = data.data_dir if data.data_dir is None else str((start / data.data_dir).absolute())
    if weights is not None and not Path(weights).exists():
        path = (start / weights).absolute()
        weights = str(path) if path.exists() or hub_name(weights) is None else weights
    return config.model_copy(
        update={
            "data": data.model_copy(update={"data": text, "data_dir": folder}),
            "model": config.model.model_copy(update={"weights": weights}),
        }
    )


def open_recorded(saved: SavedRun, config: TrainConfig) -> DataSource:
    """The data of a saved run. Raises: DlcliError, with the way out where it is not there any more."""
    try:
        return open_undivided(config.data)
    except DlcliError as exc:
        data = config.data.data
        if not _is_path(data) or Path(data).exists():
            raise
        raise DlcliError(
            f"run {saved.name} was trained on {data}, which is not there",
            hint="put it back, or say where it is now: "
            f"{resume_command(saved.folder)} --data PLACE --force",
        ) from exc


def _is_path(data: str | None) -> TypeGuard[str]:
    """Whether it is a file or folder, neither a name nor code."""
    return data is not None and find_name(data) is None and not names_code(data, DATA_GROUP)
