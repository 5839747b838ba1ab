"""What a training may run and reach: what the user typed or trusts, not what a file alone names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dlcli.commands.options import Settings
from dlcli.config import LaunchConfig, TrainConfig
from dlcli.errors import DlcliError
from dlcli.settings import merge, texts
from dlcli.trust import ALL, allowing, key, key_is_known, remember_key, trusts_all


@contextmanager
def granting(settings: Settings[TrainConfig], *, trust: bool) -> Iterator[None]:
    """Context in which code that was typed as ``file.py:NAME`` may run, or any with --trust.

    Settings of ``--config`` are those of a file, which may be another person's.
    """
    typed = merge(settings.sets, settings.flags)
    with allowing(*texts(typed), ALL if trust else None):
        launch = typed.get("launch")
        endpoint = launch.get("rdzv_endpoint") if isinstance(launch, dict) else None
        if isinstance(endpoint, str):  # others are refused with the settings
            remember_key(_endpoint_key(endpoint))
        yield


def check_endpoint(launch: LaunchConfig) -> None:
    """Raises: DlcliError for the address of another machine that a file alone names.

    The processes of a group trust each other: what they exchange can run code.
    """
    endpoint = launch.rdzv_endpoint
    if endpoint is None or key_is_known(_endpoint_key(endpoint)):
        return
    if not trusts_all():
        raise DlcliError(
            f"a file names the machine {endpoint} as that of the training, and you have not",
            hint=f"if it is yours: --rdzv-endpoint {endpoint}; else --nnodes 1 --set "
            "launch.rdzv_endpoint=null trains here alone",
        )
    remember_key(_endpoint_key(endpoint))


def _endpoint_key(endpoint: str) -> str:
    return key("endpoint", endpoint)
