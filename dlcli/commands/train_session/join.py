"""Train as a rank among the processes that torchrun or srun started."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.commands.options import Settings
from dlcli.commands.train_session.report import Screen
from dlcli.commands.train_session.run import train_here
from dlcli.config import TrainConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.runs.folder import RunFolder, list_runs
from dlcli.runs.saved import read_run
from dlcli.settings import merge

if TYPE_CHECKING:
    from dlcli.training.distributed.external_launcher import ExternalGroup

_LAUNCHER_FLAGS = {
    "devices": "--devices",
    "nnodes": "--nnodes",
    "rdzv_endpoint": "--rdzv-endpoint",
    "max_restarts": "--max-restarts",
}


def check_launch_settings(group: ExternalGroup, settings: Settings[TrainConfig]) -> None:
    """Raises: UsageError for settings of dlcli's own launcher, which another one would ignore."""
    typed = merge(settings.sets, settings.flags).get("launch", {})
    for key, flag in _LAUNCHER_FLAGS.items():
        # A list of devices still selects those that the processes use.
        if key in typed and not (key == "devices" and "," in str(typed[key])):
            raise UsageError(
                f"{flag} is for dlcli's own launcher, and {group.launcher} started these processes",
                hint=f"leave it out: {group.launcher} sets the number of processes",
            )


def join_group(
    group: ExternalGroup,
    config: TrainConfig,
    find_run_folder: Callable[[], RunFolder],
    screen: Screen,
) -> RunFolder:
    """Train as a rank of the group, in the run that ``find_run_folder`` gives; rank 0 alone calls it.

    Raises: DlcliError, Interrupted.
    """
    from dlcli.training.distributed.ranks import local_ranks
    from dlcli.training.distributed.worker import joined_world

    local_size = int(group.variables["LOCAL_WORLD_SIZE"])
    devices = config.launch.devices
    if "," in devices and local_ranks(config.launch, config.fit.device).count != local_size:
        raise UsageError(
            f"--devices {devices} is not a device for each process: "
            f"{group.launcher} started {local_size} on this machine"
        )
    group.set_environment()
    with joined_world(config.launch, config.fit.device) as world:
        run = RunFolder(Path(world.run_on_main(lambda: str(find_run_folder().path))))
        train_here(read_run(run), world, screen)
    return run


def find_or_create_run(
    group: ExternalGroup, root: Path, create: Callable[[Path], RunFolder]
) -> RunFolder:
    """Return the run below ``root`` that the group began before a restart, else a new one."""
    for run in reversed(list_runs(root)):
        with suppress(DlcliError):  # a damaged record belongs to another run
            if run.read_record().get("group") == group.key:
                return run
    run = create(root)
    run.update_record(group=group.key)
    return run
