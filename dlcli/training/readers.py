"""The readers of a plan's splits."""

from __future__ import annotations

from dataclasses import replace

import torch

from dlcli.data.base import Reader, Samples
from dlcli.data.kinds import ReadOptions, kind_of
from dlcli.data.streaming import StreamedReader
from dlcli.machine.threads import usable_cores
from dlcli.pixels.cache.folder import disk_cache
from dlcli.pixels.cache.memory import memory_budget
from dlcli.task import ImageInput
from dlcli.training.augmentation.augment import make_augment
from dlcli.training.augmentation.user_augmentation import is_user_augmentation
from dlcli.training.class_balance import balance_plan
from dlcli.training.distributed.world import World
from dlcli.training.loop.batch_plan import BatchPlan
from dlcli.training.loop.loader import TrainBatches
from dlcli.training.plan import Plan

WHOLE = "whole train photos"
# Share of the pixel cache that each split may fill; train has two readers where its photos are cropped
# at random, and the second is read where nothing is augmented.
_CACHE_SHARES = {"train": 0.9, "val": 0.1}
_CROPPED_SHARES = {WHOLE: 0.6, "train": 0.3, "val": 0.1}


def make_readers(plan: Plan, world: World) -> dict[str, Reader]:
    """Readers of train and val; with ``fit.overfit_batches`` both of the same few samples.

    Where photos are cropped at random also one of whole training photos, `WHOLE`.
    """
    splits = {name: plan.source.splits[name] for name in _CACHE_SHARES}
    if plan.config.fit.overfit_batches is not None:
        splits = dict.fromkeys(splits, _first_batches(plan, plan.config.fit.overfit_batches))
    elif (scale := _whole_scale(plan)) is not None:
        splits[WHOLE] = splits["train"]
        return {
            name: _open(
                plan, name, splits[name], share, world.local_size, scale if name == WHOLE else None
            )
            for name, share in _CROPPED_SHARES.items()
        }
    return {
        name: _open(plan, name, splits[name], share, world.local_size)
        for name, share in _CACHE_SHARES.items()
    }


def make_reader(plan: Plan, split: str, cache_share: float) -> Reader:
    """The reader of a split, which may cache decoded pixels in a share of the free memory."""
    return _open(plan, split, plan.source.splits[split], cache_share)


def _first_batches(plan: Plan, count: int) -> Samples:
    """The training samples of the first ``count`` batches of the first epoch."""
    config, reader = plan.config, make_reader(plan, "train", 0.0)
    balance = balance_plan(config.data.balance, plan.task, reader.samples.targets)
    batches = TrainBatches(
        reader,
        BatchPlan(config.fit.step_samples),
        draw=balance.order,
        grouped=balance.grouped,
        seed=config.fit.seed,
        device=torch.device("cpu"),
    )
    samples: Samples = plan.source.splits["train"]
    return samples.take(batches.order(0)[: count * config.fit.step_samples])


def _whole_scale(plan: Plan) -> float | None:
    """The ``whole_scale`` of the photos that random crops are taken from; None without."""
    config = plan.config.augment
    if not isinstance(plan.task.input, ImageInput) or is_user_augmentation(config):
        return None
    augment = make_augment(config, plan.task, samples=1, seed=0, device=torch.device("cpu"))
    return None if augment is None else augment.whole_scale(plan.task.input, plan.source.splits["train"])


def _open(
    plan: Plan,
    split: str,
    samples: Samples,
    cache_share: float,
    processes: int = 1,
    whole_scale: float | None = None,
) -> Reader:
    """A reader of one of some processes, which share this machine's memory and cores."""
    config = plan.config.data
    options = ReadOptions(
        workers=config.workers or usable_cores(processes),
        cache_bytes=int(memory_budget(config.cache) * cache_share / processes),
        disk=disk_cache(config.cache, config.cache_dir, config.cache_limit),
        on_bad_sample=config.on_bad_sample,
        whole_scale=whole_scale,
    )
    kind = kind_of(plan.task)
    reader = kind.reader(samples, plan.task, options)
    if split != "train" or samples.live is None:
        return reader
    drawn = replace(options, workers=1, cache_bytes=0, disk=None)
    return StreamedReader(
        samples,
        reader,
        lambda part: kind.reader(part, plan.task, drawn),
        fail=options.on_bad_sample == "fail",
    )
