"""`resnet18 --img-size 224` on JPEGs beside the same step on random tensors. Bar: at least 0.95.

    python benchmarks/photo_step.py PHOTO_FOLDER [--rounds 5] [--steps 6] [--batch-size 32]

Three feeds of the same training step, in turn: JPEGs decoded on the fly (a first epoch), pixels kept
in memory (every later epoch), and random pixels that lie ready.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from common import interleave, machine, ratios, spread

from dlcli.config import TrainConfig
from dlcli.data.images.reader import PixelReader
from dlcli.events import ignore
from dlcli.runs.folder import RunFolder
from dlcli.settings import merge, validate
from dlcli.task import ImageInput
from dlcli.training.build_job import make_job
from dlcli.training.distributed.world import ALONE
from dlcli.training.loop.batch_plan import BatchPlan
from dlcli.training.loop.job import FitJob
from dlcli.training.loop.loader import Batch, TrainBatches
from dlcli.training.loop.model import set_train_mode
from dlcli.training.loop.step import optimizer_step
from dlcli.training.planning import make_plan
from dlcli.training.readers import make_readers


def random_batches(job: FitJob, size: int) -> Iterator[Batch]:
    spec = job.task.input
    assert isinstance(spec, ImageInput)
    pixels = torch.randint(0, 256, (size, spec.height, spec.width, 3), dtype=torch.uint8)
    targets = torch.randint(0, 10, (size,))
    while True:
        yield Batch((pixels,), targets, np.arange(size), size, epoch=0, planned=size)


def rate(job: FitJob, batches: Iterator[Batch], steps: int) -> float:
    """Images a second over ``steps`` steps; the first batch is waited for outside the clock."""
    set_train_mode(job.model.module)
    first = next(batches)
    optimizer_step(job, first, len(first))
    t0, images = time.perf_counter(), 0
    for _ in range(steps):
        batch = next(batches)
        optimizer_step(job, batch, len(batch))
        images += len(batch)
    return images / (time.perf_counter() - t0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()
    said = {
        "model": {"name": "resnet18", "pretrained": False, "img_size": 224},
        "data": {"data": args.data},
        "fit": {"batch_size": args.batch_size, "device": "cpu"},
    }
    plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, said)))
    cpu = torch.device("cpu")
    with tempfile.TemporaryDirectory() as root:
        module, *_ = plan.build()
        readers = make_readers(plan, ALONE)
        job = make_job(plan, RunFolder(Path(root)), module, None, readers, cpu, ignore, ALONE).job
        few = (args.steps + 2) * args.batch_size
        kept = plan.source.splits["train"].take(torch.randperm(few).numpy())

        def feed(cache_bytes: int) -> TrainBatches:
            reader = PixelReader(kept, plan.task.input, workers=None, cache_bytes=cache_bytes)
            return TrainBatches(reader, BatchPlan(args.batch_size), seed=0, device=cpu)

        cached = feed(1 << 40)
        for _ in cached.epoch(0):
            pass
        found = interleave(
            {
                "decoded on the fly": lambda: rate(job, feed(0).epoch(0), args.steps),
                "kept in memory": lambda: rate(job, cached.epoch(0), args.steps),
                "random tensors": lambda: rate(job, random_batches(job, args.batch_size), args.steps),
            },
            args.rounds,
        )
    print(machine())
    for name, values in found.items():
        print(f"{name}: {spread(values)} images/s; {ratios(values, found['random tensors'])} x random")


if __name__ == "__main__":
    main()
