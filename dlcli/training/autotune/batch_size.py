"""``--batch-size auto``: the largest batch that fits into memory and is faster per sample."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import torch

from dlcli.data.base import Indices, Samples
from dlcli.errors import DlcliError
from dlcli.out_of_memory import is_out_of_memory
from dlcli.pixels.cache.memory import memory_budget
from dlcli.training.autotune.memory import activation_bytes, bytes_of
from dlcli.training.autotune.trial import (
    first_device,
    free_memory,
    process_count,
    training_batches,
    trial_job,
    with_settings,
)
from dlcli.training.loop.job import FitJob
from dlcli.training.loop.model import set_train_mode
from dlcli.training.loop.step import micro_batches, optimizer_step
from dlcli.training.plan import Plan
from dlcli.training.readers import make_reader

LARGEST = 1024  # samples of a step on all devices; larger ones need other hyper-parameters
MIN_STEPS = 10  # of an epoch, about
FIRST = 8
CACHED_SHARE = 0.4  # of free memory: a split up to it stays on the device (loop/loader.py)
CUDA_SHARE = 0.85  # of the memory that is free; the rest is for evaluation and fragmentation
MIN_SPEEDUP = 1.05  # a larger batch must be faster per sample by this factor
_TIMED_STEPS, _TIMED_S = 3, 0.2


@dataclass(frozen=True)
class MeasuredSize:
    """Steps of ``size`` samples on one device: whether they fit, and their ``peak`` memory in bytes."""

    size: int
    fits: bool
    peak: int
    samples_per_s: float = 0.0


def find_batch_size(plan: Plan) -> tuple[int, str]:
    """Return the batch size of a step on all devices together, and a sentence with the reason.

    Powers of two are tried on one device, on the longest samples. On CUDA the largest whose measured
    peak stays below 85 % of the free memory. Elsewhere the smallest that is as fast per sample as any,
    within 5 %, as long as the activations that autograd saves stay below 40 % of the machine's free
    memory. In both cases at most 1,024 samples a step and a tenth of the training split. Raises:
    DlcliError when a single sample is too much.
    """
    devices, train = process_count(plan.config), len(plan.source.splits["train"])
    device = first_device(plan.config)
    most = max(1, min(LARGEST, train // MIN_STEPS) // devices)
    cuda = device.type == "cuda"
    samples_to_try, resident = _choose_samples(plan, most * devices)
    budget = _budget(device, devices, resident)

    def measure(size: int) -> MeasuredSize:
        samples = plan.source.splits["train"].take(samples_to_try[: size * devices])
        return _try_size(plan, samples, size, budget)

    best = measure(min(FIRST, _power_of_two(most)))
    too_large = 0  # the smallest size that did not fit
    while not best.fits:
        if best.size == 1:
            raise DlcliError(
                f"--batch-size auto: {device} has no memory for a step of a single sample",
                hint="use a smaller --img-size or model, --grad-checkpointing auto or --amp bf16",
            )
        too_large, best = best.size, measure(best.size // 2)
    sizes, reason = [best], ""
    while not reason:
        size = sizes[-1].size * 2
        if size > most:
            reason = _limit_reason(size * devices, train)
        elif not cuda and size > 4 * _fast_enough(sizes).size:
            reason = "larger ones are hardly faster"
        elif size == too_large or not (larger := measure(size)).fits:
            reason = f"{size} do not fit into the {_bytes(budget)} of {device} that may be used"
        else:
            sizes.append(larger)
    best = sizes[-1] if cuda else _fast_enough(sizes)
    if best is not sizes[-1]:
        reason = f"{sizes[-1].size} make {sizes[-1].samples_per_s:,.0f} samples/s"
    return best.size * devices, _sentence(plan, best, devices, reason)


def _limit_reason(size: int, train: int) -> str:
    if size > LARGEST:
        return f"more than {LARGEST:,} are not tried"
    return f"with {size} an epoch of {train:,} samples would have {-(-train // size)} steps"


def _fast_enough(sizes: list[MeasuredSize]) -> MeasuredSize:
    """The smallest size that is about as fast per sample as the fastest."""
    fastest = max(t.samples_per_s for t in sizes)
    return next(t for t in sizes if t.samples_per_s * MIN_SPEEDUP >= fastest)


def _sentence(plan: Plan, best: MeasuredSize, devices: int, reason: str) -> str:
    each = f", {best.size} on each of {devices} devices" if devices > 1 else ""
    text = (
        f"batch size auto: {best.size * devices}{each} ({best.samples_per_s:,.0f} samples/s and "
        f"{_bytes(best.peak)}{' a device' if devices > 1 else ''}; {reason})"
    )
    if plan.config.optim.lr != "auto":
        text += f"; --lr stays {plan.config.optim.lr:g}, --lr auto finds one for it"
    return text


def _try_size(plan: Plan, samples: Samples, size: int, budget: int) -> MeasuredSize:
    """Time steps on one batch of ``samples``, with all layers unfrozen that train at any time."""
    source = replace(plan.source, splits=dict.fromkeys(("train", "val"), samples))
    small = with_settings(
        replace(plan, source=source),
        data={"balance": "none"},  # a class may be missing here
        fit={"batch_size": size * process_count(plan.config), "overfit_batches": None},
    )
    try:
        with trial_job(small, share=True) as trial:
            return _measure(trial.job, size, budget)
    except Exception as exc:
        if not is_out_of_memory(exc):
            raise
        exc.__traceback__ = None  # its frames hold the activations
        free_memory(first_device(plan.config))
        return MeasuredSize(size, False, 0)


def _measure(job: FitJob, size: int, budget: int) -> MeasuredSize:
    device, cuda = job.device, job.device.type == "cuda"
    job.model.freezing.apply(job.model.module, 1.0)
    set_train_mode(job.model.module)
    planned = job.batches.plan.micro_batch
    batch = next(training_batches(job))
    peak = 0
    if not cuda:
        part = micro_batches(job, batch)[0]
        peak = activation_bytes(job, part) + 4 * bytes_of(job.model.module.parameters())
        if peak > budget:
            return MeasuredSize(size, False, peak)
    else:
        torch.cuda.reset_peak_memory_stats(device)
    times: list[float] = []
    # The first step warms up and creates the optimizer's state. Short steps vary, so more are timed.
    while len(times) <= _TIMED_STEPS or sum(times[1:]) < _TIMED_S:
        t0 = time.perf_counter()
        optimizer_step(job, batch, batch.count * job.world.size)
        if cuda:
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - t0)
    if cuda:
        peak = torch.cuda.max_memory_allocated(device)
    undivided = job.batches.plan.micro_batch == planned  # otherwise memory ran out
    return MeasuredSize(size, undivided and peak <= budget, peak, len(batch) / min(times[1:]))


def _budget(device: torch.device, devices: int, resident: int) -> int:
    """Bytes that a step may take on one device, next to a cached split of ``resident`` bytes."""
    if device.type != "cuda":
        return memory_budget("auto") // devices
    free_memory(device)
    free, _ = torch.cuda.mem_get_info(device)
    cached = resident if resident <= CACHED_SHARE * free else 0
    return int(CUDA_SHARE * (free - cached))


def _choose_samples(plan: Plan, most: int) -> tuple[Indices, int]:
    """Samples to try steps on (the longest where lengths vary), and the bytes of the encoded split.

    The bytes are 0 where lengths vary: such a split is not cached on the device.
    """
    reader = make_reader(plan, "train", 0.0)
    try:
        if reader.lengths is not None:
            return np.argsort(-reader.lengths, kind="stable")[:most].astype(np.int64), 0
        inputs, readable = reader.read(np.arange(1, dtype=np.int64))
        size = sum(array.nbytes for array in inputs) * len(reader) if len(readable) else 0
        return np.arange(min(most, len(reader)), dtype=np.int64), size
    finally:
        reader.close()


def _power_of_two(number: int) -> int:
    """The largest power of two up to ``number``."""
    return 1 << (number.bit_length() - 1)


def _bytes(size: int) -> str:
    unit = next((unit for unit in (30, 20) if size >= 2**unit), 10)
    return f"{size / 2**unit:.{int(unit == 30)}f} {'KMG'[unit // 10 - 1]}iB"
