"""Events of a whole run: its plan at the start, and hints from its events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch

from dlcli.data.base import Reader
from dlcli.data.notices import for_split
from dlcli.events import Emit, Event, Noted, RunStarted, Warned
from dlcli.runs.folder import RunFolder, read_events
from dlcli.settings import flat
from dlcli.training.build_job import BuiltJob
from dlcli.training.diagnostics.hints import Hints
from dlcli.training.loop.state import Progress
from dlcli.training.plan import Plan
from dlcli.trust import short_name
from dlcli.zoo.device import describe_device


def run_started(
    plan: Plan, run: RunFolder, built: BuiltJob, progress: Progress, device: torch.device
) -> RunStarted:
    """Return the plan of a run as an event, for screens and other sinks."""
    job, config = built.job, plan.config
    parameters = list(job.model.module.parameters())
    return RunStarted(
        run=str(run.path),
        model=plan.model.name,
        params=sum(p.numel() for p in parameters),
        trainable_params=sum(p.numel() for p in parameters if p.requires_grad),
        data=plan.source.origin,
        samples={name: len(split) for name, split in plan.source.splits.items()},
        kind=plan.source.kind,
        task=plan.task.kind,
        num_classes=plan.task.num_classes,
        input_shape=plan.task.input.shape,
        notes=(*plan.notes, *built.notes),
        epochs=config.fit.epochs,
        steps_per_epoch=len(job.batches),
        total_steps=job.total_steps,
        batch_size=config.fit.step_samples,
        optimizer=short_name(config.optim.optimizer),
        scheduler=config.optim.scheduler,
        lr=config.optim.peak_lr,
        device=describe_device(device),
        amp=job.precision.name,
        monitor=plan.monitor,
        resumed_step=progress.step,
        world_size=job.world.size,
        division=built.division,
        schedule=built.schedule,
        loss=built.loss,
        settings=flat(config),
    )


def with_notices(emit: Emit, readers: Mapping[str, Reader]) -> Emit:
    """Return an ``emit`` that adds a warning for each notice of the readers, once it is there."""
    shown: Counter[str] = Counter()

    def emit_with_notices(event: Event) -> None:
        emit(event)
        for split, reader in readers.items():
            new = reader.notices[shown[split] :]
            shown[split] += len(new)
            for notice in for_split(new, split):
                emit(Warned(notice.message))

    return emit_with_notices


def with_hints(emit: Emit, run: RunFolder) -> Emit:
    """Return an ``emit`` that adds the hints that follow from each event."""
    hints = Hints()
    if run.metrics.is_file():
        hints.recall(read_events(run.metrics))

    def emit_with_hints(event: Event) -> None:
        emit(event)
        for message in hints(event):
            emit(Noted(message))

    return emit_with_hints
