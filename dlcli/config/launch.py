"""Settings of training on several devices and machines."""

from typing import Annotated

from dlcli.config.devices import parse_devices, parse_machines
from dlcli.schema import Frozen
from dlcli.settings import parsed_by, setting


class LaunchConfig(Frozen):
    """Several devices"""

    devices: Annotated[str, parsed_by(parse_devices)] = setting(
        "1", "Devices: a number, indices (0,1), or auto (all).", "--devices", on_resume="allowed"
    )
    nnodes: Annotated[str, parsed_by(parse_machines)] = setting(
        "1",
        "Number of nodes, or MIN:MAX; run the command on each.",
        "--nnodes",
        advanced=True,
        on_resume="allowed",
    )
    rdzv_endpoint: str | None = setting(
        None,
        "Rendezvous endpoint HOST:PORT, of one of the nodes.",
        "--rdzv-endpoint",
        advanced=True,
        on_resume="allowed",
    )
    max_restarts: int = setting(
        3,
        "Restarts from the last training state after a process fails.",
        "--max-restarts",
        ge=0,
        advanced=True,
        on_resume="allowed",
    )
    timeout_s: float = setting(
        600.0, "Timeout of collective operations, in seconds.", gt=0, on_resume="allowed"
    )
    sync_bn: bool = setting(
        True,
        "Synchronize batch norm statistics across devices.",
        "--sync-bn/--no-sync-bn",
        advanced=True,
    )
