"""One optimizer step: micro-batches in, one update of the weights out.

A step's batch is the same whatever divides it. Each part contributes its loss as a sum over the count
of the whole batch, so that the gradients add up to those of the undivided batch: over micro-batches by
accumulation, over processes by the averaging of `World.wrap`.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from dlcli.errors import DlcliError
from dlcli.events import Warned
from dlcli.training.loop.loader import Batch, portions
from dlcli.training.loop.state import Progress
from dlcli.zoo.forward import model_inputs

if TYPE_CHECKING:
    from dlcli.training.loop.fit import FitJob


@dataclass(frozen=True)
class Taken:
    """What a step gives back, on the device: sums over this process's samples, and the gradient's norm.

    ``hits`` are the samples whose class is right, where samples have one. ``finite`` is whether the
    update was made: a bool where that costs nothing to know, else a tensor.
    """

    loss_sum: torch.Tensor
    count: torch.Tensor
    hits: torch.Tensor
    grad_norm: torch.Tensor
    finite: bool | torch.Tensor


class OutOfMemory(Exception):
    """A process of several ran out of memory; the group starts again with smaller micro-batches."""


def optimizer_step(job: FitJob, batch: Batch, progress: Progress, total: float) -> Taken:
    """Forward, backward and update for one batch; ``total`` is the count over all processes.

    When memory runs out, the micro-batches are halved and the gradient is computed again, so that the
    batch stays what it was; that is told, and kept in ``progress.micro``. Where the gradient is no
    finite number, neither weights nor running statistics change. Raises: DlcliError when a single sample
    or the optimizer's state is too much, `OutOfMemory` in a group.
    """
    job.statistics.keep()
    while True:
        try:
            loss, count, hits = _gradient(job, batch, progress, total)
            break
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as exc:
            if not is_out_of_memory(exc):
                raise
            _halve(job, batch, progress, exc)
        job.statistics.put_back()  # no pass counts twice
    try:
        norm, finite = _update(job)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as exc:
        if not is_out_of_memory(exc):
            raise
        # Some weights may have moved already, so this step cannot be done again.
        raise DlcliError(
            f"{job.precision.device} has no memory left for the state of {job.optim.optimizer} at step "
            f"{progress.step}",
            hint="use an optimizer that keeps less, such as --optimizer momentum or sgd, or a smaller "
            "model; smaller batches do not help here",
        ) from exc
    if finite is not True:
        job.statistics.put_back(unless=finite)
    return Taken(loss, count, hits, norm, finite)


def largest_micro(job: FitJob, progress: Progress) -> int:
    """The largest micro-batch: as the settings say, or less where memory ran out."""
    return min(progress.micro or job.micro, job.micro)


def micro_batches(job: FitJob, batch: Batch, progress: Progress) -> list[Batch]:
    """The parts that a batch is computed in, which depend on what was planned, not on what is readable.

    Of several processes each has as many, since they wait for each other in each; some may then be
    empty. A batch that took in a last sample is not divided for that one's sake.
    """
    size, mirrored = job.world.size, job.batches.mirrored
    micro = largest_micro(job, progress)
    share = min(job.batches.largest_share(progress.batch), math.ceil(job.config.step_samples / size))
    count = math.ceil(share / micro)
    if micro > 1:  # a part of one sample has no batch statistics
        count = min(count, max(share // 2, 1))
    parts = [batch.take(p) for p in portions(len(batch), count, mirrored=mirrored)]
    return parts if size > 1 else [part for part in parts if len(part)]


def is_out_of_memory(exc: BaseException) -> bool:
    """Whether an error means that memory ran out; a CPU's allocator says so in words only."""
    if isinstance(exc, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(exc, RuntimeError) and (
        "can't allocate memory" in str(exc)
        or "out of memory" in str(exc)
        or "CUBLAS_STATUS_ALLOC_FAILED" in str(exc)
    )


def _gradient(
    job: FitJob, batch: Batch, progress: Progress, total: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradient of a batch, in the parameters; loss sum, count and hits of this process's samples."""
    job.optimizer.zero_grad(set_to_none=True)
    parts = micro_batches(job, batch, progress)
    zero = torch.zeros((), device=job.precision.device)
    loss, count, hits = zero, zero, zero.long()
    for number, part in enumerate(parts, 1):
        with job.world.no_sync(job.forward) if number < len(parts) else nullcontext():
            if not len(part):
                _stand_in(job, part)
                continue
            found = _forward_backward(job, part, progress.epoch, total / job.world.size)
        loss, count, hits = loss + found[0], count + found[1], hits + found[2]
    return loss, count, hits


def _stand_in(job: FitJob, empty: Batch) -> None:
    """Take part in what all processes do in a micro-batch, without a sample of one's own.

    Where batch norms are synchronised it must be a batch of no samples, lest others count in them; other
    layers need not know such batches.
    """
    batch = empty if job.synchronised else job.batches.stand_in()
    with job.precision.autocast():
        outputs = job.forward(*model_inputs(batch.inputs, job.task))
    nothing = outputs.float().sum() * 0.0
    job.scaler.scale(nothing).backward()  # type: ignore[no-untyped-call]


def _forward_backward(
    job: FitJob, batch: Batch, epoch: int, divisor: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of one micro-batch; loss sum, count and hits."""
    inputs, targets = batch.inputs, batch.targets
    if job.augment is not None:
        pixels, targets = job.augment(inputs[0], targets, batch.indices, epoch)
        inputs = (pixels,)
    taught = () if job.teacher is None else (job.teacher(inputs),)
    try:
        with job.precision.autocast():
            outputs = job.forward(*model_inputs(inputs, job.task))
        loss_sum, count = job.loss(outputs.float(), targets, *taught)
    except ValueError as exc:
        if "more than 1 value per channel" not in str(exc):
            raise
        raise DlcliError(
            "batch normalisation cannot train on a batch of one sample",
            hint="use --batch-size 2 or more for each device and micro-batch, at least two training "
            "samples, and leave --no-sync-bn out",
        ) from exc
    job.scaler.scale(loss_sum / divisor).backward()  # type: ignore[no-untyped-call]
    return loss_sum.detach(), count, _hits(job, outputs.detach(), targets)


def _hits(job: FitJob, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    if not job.counts_hits:
        return torch.zeros((), dtype=torch.int64, device=outputs.device)
    return (outputs.argmax(1) == targets).sum()


def _update(job: FitJob) -> tuple[torch.Tensor, bool | torch.Tensor]:
    """Clip, and step unless a gradient is no finite number; its norm before clipping, and whether so."""
    job.scaler.unscale_(job.optimizer)
    groups = job.optimizer.param_groups  # walking the module would cost more than the norm
    with_grad = [p for group in groups for p in group["params"] if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in with_grad if p.grad is not None])
    if job.optim.clip_grad_value is not None:
        nn.utils.clip_grad_value_(with_grad, job.optim.clip_grad_value)
    if job.optim.clip_grad_norm is not None:
        nn.utils.clip_grads_with_norm_(with_grad, job.optim.clip_grad_norm, norm)
    finite = torch.isfinite(norm)
    if job.scaler.is_enabled():
        job.scaler.step(job.optimizer)  # it leaves the update out by itself
        job.scaler.update()
    elif norm.device.type == "cuda" and getattr(job.optimizer, "_step_supports_amp_scaling", False):
        # A fused optimizer reads on the device whether to update: no wait for the device here.
        job.optimizer.grad_scale, job.optimizer.found_inf = None, (~finite).float()  # type: ignore[attr-defined]
        job.optimizer.step()
    else:
        if stepped := bool(finite):
            job.optimizer.step()
        return norm, stepped
    return norm, finite


def _halve(job: FitJob, batch: Batch, progress: Progress, exc: BaseException) -> None:
    """Smaller micro-batches from here on. Raises: DlcliError, OutOfMemory."""
    device = job.precision.device
    micro = min(largest_micro(job, progress), max(len(batch), 1))
    if micro <= 1:
        raise DlcliError(
            f"{device} is out of memory at step {progress.step} with a single sample",
            hint="use a smaller --img-size or model, --grad-checkpointing auto or --amp bf16",
        ) from exc
    progress.micro = math.ceil(micro / 2)
    exc.__traceback__ = None  # it holds the activations
    job.optimizer.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    job.emit(
        Warned(
            f"out of memory at step {progress.step}: micro-batches of {progress.micro} instead of "
            f"{micro} from here on; a step still sees {job.config.step_samples} samples"
        )
    )
    if job.world.size > 1:
        raise OutOfMemory(progress.micro) from None


def set_train_mode(module: nn.Module) -> None:
    """Train mode, except batch norms whose weights are frozen: their statistics stay frozen too."""
    module.train()
    for sub in module.modules():
        own = list(sub.parameters(recurse=False))
        if hasattr(sub, "running_mean") and own and not any(p.requires_grad for p in own):
            sub.eval()
