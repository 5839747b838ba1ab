"""The machines that a training may reach: those that the user typed or trusts, not a file alone."""

from __future__ import annotations

import os
from pathlib import Path

from dlcli.commands.options import Settings
from dlcli.config import LaunchConfig, TrainConfig
from dlcli.errors import DlcliError
from dlcli.files import user_path
from dlcli.runs.folder import as_typed
from dlcli.settings import merge
from dlcli.trust import key, key_is_known, remember_key, trusts_all


def grant_reach(settings: Settings[TrainConfig]) -> None:
    """Remember the machine and the cache folder that were typed.

    Settings of ``--config`` are those of a file, which may be another person's.
    """
    typed = merge(settings.sets, settings.flags)
    for group, name, key_of in (
        ("launch", "rdzv_endpoint", _endpoint_key),
        ("data", "cache_dir", _cache_key),
    ):
        values = typed.get(group)
        value = values.get(name) if isinstance(values, dict) else None
        if isinstance(value, str):  # others are refused with the settings
            remember_key(key_of(value))


def check_reach(config: TrainConfig, launch: LaunchConfig) -> None:
    """Raises: DlcliError for another machine, or a folder to write to, that a file alone names.

    The processes of a group trust each other: what they exchange can run code. A cache is created, and
    its oldest files are deleted.
    """
    endpoint, cache = launch.rdzv_endpoint, config.data.cache_dir
    if endpoint is not None:
        _check_known(
            _endpoint_key(endpoint),
            f"a file names the machine {endpoint} as that of the training, and you have not",
            hint=f"if it is yours: --rdzv-endpoint {endpoint}; else --nnodes 1 --set "
            "launch.rdzv_endpoint=null trains here alone",
        )
    if cache is not None:
        _check_known(
            _cache_key(cache),
            f"a file names the folder {cache} for the cache of images, and you have not",
            hint=f"--cache-dir {as_typed(Path(cache))} if that is right, else --set data.cache_dir=null",
        )


def _check_known(entry: str, message: str, *, hint: str) -> None:
    """Raises: DlcliError for a key that is not known, unless --trust makes it known."""
    if key_is_known(entry):
        return
    if not trusts_all():
        raise DlcliError(message, hint=hint)
    remember_key(entry)


def _endpoint_key(endpoint: str) -> str:
    return key("endpoint", endpoint)


def _cache_key(folder: str) -> str:
    return key("cache", os.path.realpath(user_path(folder)))
