"""Settings of training on several devices and machines."""

from __future__ import annotations

from dlcli.settings import setting
from dlcli.task import Frozen


class LaunchConfig(Frozen):
    """Several devices"""

    devices: str = setting(
        "1", "How many devices, which ones (0,1: those two), or auto: all of them.", "--devices"
    )
    nnodes: str = setting(
        "1", "Machines: 2, or 1:4 for whatever is there; run the command on each.", "--nnodes"
    )
    rdzv_endpoint: str | None = setting(
        None, "HOST:PORT of one of the machines, where all of them meet.", "--rdzv-endpoint"
    )
    max_restarts: int = setting(
        3,
        "How often the processes start again from the last state when one dies.",
        "--max-restarts",
        ge=0,
    )
    timeout_s: float = setting(
        600.0, "Seconds after which a process that others wait for is given up.", gt=0
    )
    sync_bn: bool = setting(
        True, "Batch norms see the whole step's batch, not one device's.", "--sync-bn/--no-sync-bn"
    )
