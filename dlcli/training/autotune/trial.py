"""A training job for measurements, without a run folder.

The learning rate finder, the batch size finder and ``--dry-run`` use it.
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
from dlcli.training.build_job import BuiltJob, make_job
from dlcli.training.code_errors import code_errors
from dlcli.training.distributed.ranks import local_ranks, machine_range
from dlcli.training.distributed.world import ALONE, World
from dlcli.training.loop.batch_plan import batch_bounds
from dlcli.training.loop.determinism import make_deterministic, preserved_rng
from dlcli.training.loop.job import FitJob
from dlcli.training.loop.loader import Batch
from dlcli.training.plan import Plan
from dlcli.training.prepare import load_teacher
from dlcli.training.readers import make_readers
from dlcli.zoo.device import resolve_device, training_threads
from dlcli.zoo.summary import Summary, summarize


@dataclass(frozen=True)
class TrialJob:
    """A job on one device with its readers; ``run`` is a folder that does not exist.

    ``load_notes`` are sentences about the loaded weights; ``summary`` is its layers, where requested.
    """

    plan: Plan
    run: RunFolder
    built: BuiltJob
    readers: dict[str, Reader]
    load_notes: tuple[str, ...]
    summary: Summary | None

    @property
    def job(self) -> FitJob:
        return self.built.job


@contextmanager
def trial_job(
    plan: Plan, *, share: bool = False, summary: bool = False, emit: Emit = ignore
) -> Iterator[TrialJob]:
    """Context with a job of the plan, on a model of its own.

    With ``share`` it is the first process's share of each batch. Otherwise it is all of it, in
    micro-batches as large as each process would have them. Nothing is compiled, which would take
    minutes, and no features are cached. Afterwards the random generators are restored and GPU memory is
    freed. Raises: UsageError, DlcliError as `make_job` does.
    """
    several = process_count(plan.config)
    here = local_ranks(plan.config.launch, plan.config.fit.device).count
    # A world without process groups: only its size matters here.
    world = World(size=several, local_size=several) if share else ALONE
    plan = replace(plan, config=_trial_settings(plan.config, 1 if share else several))
    device = first_device(plan.config)
    make_deterministic(plan.config.fit.deterministic, device)  # before cuBLAS starts
    threads = training_threads(plan.config.fit.threads, here if share else 1)
    with threads, preserved_rng(device), code_errors():
        module, load_notes, _ = plan.build()
        teacher = load_teacher(plan)
        layers = summarize(module, plan.task) if summary else None
        readers = make_readers(plan, world)
        try:
            run = RunFolder(Path(tempfile.gettempdir()) / f"dlcli-{uuid.uuid4().hex}")
            built = make_job(plan, run, module, teacher, readers, device, emit, world)
            trial = TrialJob(plan, run, built, readers, tuple(load_notes), layers)
            yield trial
        finally:
            for reader in readers.values():
                reader.close()
    del module, teacher, built, trial
    free_memory(device)


def training_batches(job: FitJob) -> Generator[Batch, None, None]:
    """Yield usable batches, epoch after epoch, without end.

    Raises: DlcliError when no batch can be trained on.
    """
    for epoch in itertools.count():
        usable = False
        for batch in job.batches.epoch(epoch, augmented=True):
            if batch.is_usable(len(batch) * job.world.size):
                usable = True
                yield batch
        if not usable:
            raise job.batches.unreadable()


def free_memory(device: torch.device) -> None:
    """Collect garbage and empty the CUDA cache."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def with_settings(plan: Plan, **settings: Any) -> Plan:
    """The plan with other settings: ``fit=dict(batch_size=8)``."""
    groups = {
        name: getattr(plan.config, name).model_copy(update=values) for name, values in settings.items()
    }
    return replace(plan, config=plan.config.model_copy(update=groups))


def steps_per_epoch(plan: Plan) -> int:
    """Optimizer steps of an epoch over the whole training split."""
    return len(batch_bounds(len(plan.source.splits["train"]), plan.config.fit.step_samples)) - 1


def process_count(config: TrainConfig) -> int:
    """Number of processes that share a batch; the minimum where machines may join.

    Raises: UsageError when there are fewer devices.
    """
    return machine_range(config.launch)[0] * local_ranks(config.launch, config.fit.device).count


def first_device(config: TrainConfig) -> torch.device:
    """The device of a run's first process."""
    device = resolve_device(config.fit.device)
    picked = local_ranks(config.launch, config.fit.device).devices
    return torch.device(device.type, picked[0]) if picked else device


def _trial_settings(config: TrainConfig, parts: int) -> TrainConfig:
    """The settings of a trial, each micro-batch divided by ``parts``; "auto" as a rate becomes 1."""
    fit = {
        "grad_accum_steps": config.fit.grad_accum_steps * parts,
        "compile": "none",
        "cache_features": "off",
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
