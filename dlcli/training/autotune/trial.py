"""A job as a run would have it, to be tried out and thrown away: no run folder, no trace.

The learning rate finder, the batch size finder and ``--dry-run`` work on one.
"""

from __future__ import annotations

import gc
import itertools
import tempfile
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dlcli.config import TrainConfig
from dlcli.data.base import Reader
from dlcli.events import Emit, ignore
from dlcli.runs.folder import RunFolder
from dlcli.training.build_job import Prepared, make_job
from dlcli.training.distributed.ranks import local_ranks, machine_range
from dlcli.training.distributed.world import ALONE, World
from dlcli.training.loop.determinism import make_deterministic, preserved_rng
from dlcli.training.loop.job import FitJob
from dlcli.training.loop.loader import Batch
from dlcli.training.plan import Plan
from dlcli.training.readers import make_readers
from dlcli.zoo.device import resolve_device
from dlcli.zoo.summary import Summary, summarize


@dataclass(frozen=True)
class Rehearsal:
    """A job on one device with its readers; ``run`` is a folder that does not exist.

    ``said`` is what was loaded into the model, ``summary`` its layers, where it was asked for.
    """

    plan: Plan
    run: RunFolder
    prepared: Prepared
    readers: dict[str, Reader]
    said: tuple[str, ...]
    summary: Summary | None

    @property
    def job(self) -> FitJob:
        return self.prepared.job


@contextmanager
def rehearsal(
    plan: Plan, *, share: bool = False, summary: bool = False, emit: Emit = ignore
) -> Iterator[Rehearsal]:
    """The job of a plan for the length of the block, on a module of its own.

    With ``share`` it is the first process's share of each batch. Otherwise it is all of it, in
    micro-batches as large as each process would have them. Nothing is compiled, which takes minutes.
    Afterwards the random generators are where they were and a GPU's memory is free again. Raises:
    UsageError, DlcliError as `make_job` does.
    """
    several = processes(plan.config)
    # Without the bonds of a real one, every process is alone with its share.
    world = World(size=several, local_size=several) if share else ALONE
    plan = replace(plan, config=_settings(plan.config, 1 if share else several))
    device = device_of(plan.config)
    make_deterministic(plan.config.fit.deterministic, device)  # before the first product on a GPU
    with preserved_rng(device):
        module, said = plan.build()
        layers = summarize(module, plan.task) if summary else None
        readers = make_readers(plan, world)
        try:
            run = RunFolder(Path(tempfile.gettempdir()) / f"dlcli-{uuid.uuid4().hex}")
            prepared = make_job(plan, run, module, readers, device, emit, world)
            made = Rehearsal(plan, run, prepared, readers, tuple(said), layers)
            yield made
        finally:
            for reader in readers.values():
                reader.close()
    del module, prepared, made
    free_memory(device)


def training_batches(job: FitJob) -> Generator[Batch, None, None]:
    """Usable batches of one epoch after the other without end.

    Raises: DlcliError when no batch can be trained on.
    """
    for epoch in itertools.count():
        usable = False
        for batch in job.batches.epoch(epoch):
            if batch.is_usable(len(batch) * job.world.size):
                usable = True
                yield batch
        if not usable:
            raise job.batches.unreadable()


def free_memory(device: torch.device) -> None:
    """Give back what nothing refers to any more, on the device too."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def changed(plan: Plan, **settings: Any) -> Plan:
    """The plan with other settings: ``fit=dict(batch_size=8)``."""
    groups = {
        name: getattr(plan.config, name).model_copy(update=values) for name, values in settings.items()
    }
    return replace(plan, config=plan.config.model_copy(update=groups))


def processes(config: TrainConfig) -> int:
    """How many processes a run divides its batches among, where machines may join: the fewest.

    Raises: UsageError when that is not to be had.
    """
    return machine_range(config.launch)[0] * local_ranks(config.launch, config.fit.device).count


def device_of(config: TrainConfig) -> torch.device:
    """The device of a run's first process."""
    device = resolve_device(config.fit.device)
    picked = local_ranks(config.launch, config.fit.device).devices
    return torch.device(device.type, picked[0]) if picked else device


def _settings(config: TrainConfig, parts: int) -> TrainConfig:
    """The settings of a rehearsal, each micro-batch divided by ``parts``.

    A rate that is still looked for is 1.
    """
    fit = {
        "grad_accum_steps": config.fit.grad_accum_steps * parts,
        "compile": "none",
        "tensorboard": False,
        "histograms": False,
    }
    lr = 1.0 if config.optim.lr == "auto" else config.optim.lr
    return config.model_copy(
        update={
            "fit": config.fit.model_copy(update=fit),
            "optim": config.optim.model_copy(update={"lr": lr}),
        }
    )
