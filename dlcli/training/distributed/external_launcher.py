"""Groups of processes started by torchrun or Slurm's srun, which dlcli joins."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class ExternalGroup:
    """A group that another launcher started this process in.

    ``variables`` are what `dlcli.training.distributed.world.join` reads. ``key`` is the same each time
    that the group restarts, so that it finds its run again.
    """

    launcher: str
    key: str
    variables: dict[str, str]

    @property
    def main(self) -> bool:
        return self.variables["RANK"] == "0"

    def set_environment(self) -> None:
        """Put the variables into the environment, where torch reads them."""
        os.environ.update(self.variables)


def external_group(env: Mapping[str, str] | None = None) -> ExternalGroup | None:
    """The group that torchrun or srun started this process in, or None."""
    env = os.environ if env is None else env
    if all(name in env for name in _TORCHRUN):
        variables = {name: env[name] for name in _TORCHRUN}
        variables["LOCAL_WORLD_SIZE"] = env.get("LOCAL_WORLD_SIZE", "1")
        return ExternalGroup("torchrun", _torchrun_key(env), variables)
    # In a batch script outside srun, SLURM_PROCID is set too; the step's own variables are not.
    if "SLURM_PROCID" in env and int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        job, step = int(env.get("SLURM_JOB_ID", "0")), env.get("SLURM_STEP_ID", "0")
        nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST", "localhost")
        variables = {
            "RANK": env["SLURM_PROCID"],
            "WORLD_SIZE": env["SLURM_STEP_NUM_TASKS"],
            "LOCAL_RANK": env.get("SLURM_LOCALID", "0"),
            "LOCAL_WORLD_SIZE": str(_local_tasks(env)),
            "MASTER_ADDR": env.get("MASTER_ADDR", first_host(nodes)),
            "MASTER_PORT": env.get("MASTER_PORT", str(15_000 + (job * 31 + int(step)) % 20_000)),
        }
        return ExternalGroup("srun", f"slurm-{job}-{step}", variables)
    return None


def first_host(nodes: str) -> str:
    """The first machine of a Slurm list: "gpu[003-005,9],login" is gpu003."""
    match = re.match(r"([^\[,]+)(?:\[([0-9]+)[^\]]*\])?([^,]*)", nodes)
    assert match is not None, nodes
    return f"{match[1]}{match[2] or ''}{match[3]}"


def _local_tasks(env: Mapping[str, str]) -> int:
    """Tasks on this machine, out of "4(x2),1": two machines of four, one of one."""
    counts: list[int] = []
    for part in env.get("SLURM_STEP_TASKS_PER_NODE", "1").split(","):
        match = re.fullmatch(r"([0-9]+)(?:\(x([0-9]+)\))?", part)
        if match is not None:
            counts += [int(match[1])] * int(match[2] or 1)
    node = int(env.get("SLURM_NODEID", "0"))
    return counts[node] if node < len(counts) else 1


def _torchrun_key(env: Mapping[str, str]) -> str:
    """The identity of torchrun's agent, the parent of every rank that it starts and restarts."""
    parent = psutil.Process(os.getppid())
    identity = f"{socket.gethostname()}-{parent.pid}-{int(parent.create_time())}"
    return f"torchrun-{env.get('TORCHELASTIC_RUN_ID', 'none')}-{identity}"
