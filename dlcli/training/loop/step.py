"""One optimizer step: micro-batches, gradient clipping, the update of the weights.

A step does not depend on how its batch is divided. Each part contributes its loss as a sum over the
count of the whole batch, so that the gradients add up to those of the undivided batch: over
micro-batches by accumulation, over processes by the averaging of `World.wrap`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import nn

from dlcli.errors import DlcliError
from dlcli.events import Warned
from dlcli.out_of_memory import is_out_of_memory
from dlcli.training.loop.determinism import capture_rng, restore_rng
from dlcli.training.loop.interrupt import StopRequested
from dlcli.training.loop.job import FitJob
from dlcli.training.loop.loader import Batch
from dlcli.training.loop.objective import LossSums
from dlcli.wording import first_line, listed
from dlcli.zoo.forward import model_inputs


@dataclass(frozen=True)
class StepOutput:
    """The result of a step, on the device.

    ``loss_sum``, ``count`` and ``correct`` are sums over this process's samples; ``grad_norm`` is the
    gradient's norm before clipping. ``updated`` is whether the weights were updated: a bool where that
    is known without waiting for the device, else a tensor.
    """

    loss_sum: torch.Tensor
    count: torch.Tensor
    correct: torch.Tensor
    grad_norm: torch.Tensor
    updated: bool | torch.Tensor


class OutOfMemory(Exception):
    """A process of a group ran out of memory; the group starts again with smaller micro-batches."""

    def __init__(self, micro_batch: int) -> None:
        super().__init__(micro_batch)
        self.micro_batch = micro_batch


def optimizer_step(
    job: FitJob, batch: Batch, total: float, check_stop: Callable[[], None] | None = None
) -> StepOutput:
    """Forward, backward and update for one batch; ``total`` is the loss's count over all processes.

    ``check_stop`` is called between micro-batches and may raise StopRequested: then everything, the
    generators included, is as before the step, which a resumed run repeats.

    When memory runs out, the micro-batches are halved (in ``job.batches.plan``) and the gradient is
    computed again; the batch stays the same. With a gradient that is not finite neither weights nor
    running statistics change. Raises: DlcliError when memory is too small for a single sample or for the
    optimizer's state; `OutOfMemory` in a group.
    """
    statistics = job.model.running_statistics
    statistics.save()
    parts = micro_batches(job, batch)
    generators = capture_rng() if check_stop is not None and len(parts) > 1 else None
    while True:
        try:
            sums = _gradient(job, parts, total, check_stop if generators is not None else None)
            break
        except StopRequested:
            assert generators is not None
            statistics.restore()
            restore_rng(*generators)
            job.optimizer.zero_grad(set_to_none=True)
            raise
        except (MemoryError, RuntimeError, OSError) as exc:
            if not is_out_of_memory(exc):
                raise
            _halve_micro_batches(job, batch, exc)
        parts = micro_batches(job, batch)
        statistics.restore()  # no forward pass counts twice
    try:
        norm, updated = _update(job)
    except (MemoryError, RuntimeError, OSError) as exc:
        if not is_out_of_memory(exc):
            raise
        # Some weights may be updated already, so this step cannot be repeated.
        raise DlcliError(
            f"{job.device} has no memory left for the state of {job.optim.optimizer}",
            hint="use an optimizer with a smaller state, such as --optimizer momentum or sgd, or a "
            "smaller model; smaller batches do not help here",
        ) from exc
    if updated is not True:
        statistics.restore(unless=updated)
    return StepOutput(sums.loss, sums.count, sums.correct, norm, updated)


def micro_batches(job: FitJob, batch: Batch) -> list[Batch]:
    """The micro-batches of a process's share.

    In a group every process has as many, since they wait for each other in each; some may be empty.
    """
    plan = job.batches.plan
    parts = [batch.take(positions) for positions in plan.micro_batches(len(batch), batch.planned)]
    return parts if plan.world_size > 1 else [part for part in parts if len(part)]


def _gradient(
    job: FitJob, parts: list[Batch], total: float, check_stop: Callable[[], None] | None
) -> LossSums:
    """Accumulate the gradient of a batch in the parameters; sums over this process's samples.

    ``parts`` are its micro-batches. Raises: StopRequested from ``check_stop``, between two of them.
    """
    job.optimizer.zero_grad(set_to_none=True)
    sums: LossSums | None = None
    for number, part in enumerate(parts, 1):
        if number > 1 and check_stop is not None:
            check_stop()
        with job.world.no_sync(job.model.forward) if number < len(parts) else nullcontext():
            if not len(part):
                _empty_backward(job, part)
                continue
            part_sums = _forward_backward(job, part, total / job.world.size)
        sums = part_sums if sums is None else sums + part_sums
    return LossSums.zero(job.device) if sums is None else sums


def _empty_backward(job: FitJob, empty: Batch) -> None:
    """Take part in a micro-batch's collectives without samples; the gradient is 0.

    Synchronised batch norms need a batch of no samples, since others would count in their statistics;
    other layers may not support empty batches.
    """
    batch = empty if job.model.sync_batch_norm else job.batches.example()
    with job.precision.autocast():
        outputs = job.model.forward(*model_inputs(batch.inputs, job.task))
    zero_loss = outputs.float().sum() * 0.0
    job.scaler.scale(zero_loss).backward()  # type: ignore[no-untyped-call]


def _forward_backward(job: FitJob, batch: Batch, divisor: float) -> LossSums:
    """Add the gradient of one micro-batch to the parameters'; sums over its samples."""
    sums = job.objective(job.model.forward, batch)
    job.scaler.scale(sums.loss / divisor).backward()  # type: ignore[no-untyped-call]
    return replace(sums, loss=sums.loss.detach())


def _update(job: FitJob) -> tuple[torch.Tensor, bool | torch.Tensor]:
    """Clip gradients and update; skip the update when they are not finite.

    Returns (norm before clipping, updated).
    """
    job.scaler.unscale_(job.optimizer)
    groups = job.optimizer.param_groups  # faster than module.parameters()
    with_grad = [p for group in groups for p in group["params"] if p.grad is not None]
    norm = _norm([p.grad for p in with_grad])
    if job.optim.clip_grad_value is not None:
        nn.utils.clip_grad_value_(with_grad, job.optim.clip_grad_value)
    if job.optim.clip_grad_norm is not None:
        nn.utils.clip_grads_with_norm_(with_grad, job.optim.clip_grad_norm, norm)
    if job.scaler.is_enabled():
        job.scaler.step(job.optimizer)  # skips the update itself
        job.scaler.update()
        return norm, torch.isfinite(norm)
    if norm.device.type == "cuda" and getattr(job.optimizer, "_step_supports_amp_scaling", False):
        # A fused optimizer reads on the device whether to update, without waiting for it.
        finite = torch.isfinite(norm)
        job.optimizer.grad_scale, job.optimizer.found_inf = None, (~finite).float()  # type: ignore[attr-defined]
        job.optimizer.step()
        return norm, finite
    if updated := math.isfinite(norm.item()):
        job.optimizer.step()
    return norm, updated


def _norm(gradients: list[torch.Tensor]) -> torch.Tensor:
    """The 2-norm of all gradients.

    As `nn.utils.get_total_norm`, which first groups them by device: here all are on one.
    """
    if not gradients:
        return torch.zeros(())
    norm: torch.Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return norm


def _halve_micro_batches(job: FitJob, batch: Batch, exc: BaseException) -> None:
    """Halve the micro-batches of this and all later steps. Raises: DlcliError, OutOfMemory."""
    plan = job.batches.plan
    before = min(plan.micro_batch, max(len(batch), 1))
    if job.objective.undivided:
        raise DlcliError(
            f"{job.device} is out of memory with {before} samples in epoch {batch.epoch + 1}, and "
            f"{job.objective.undivided}",
            hint="use a smaller --batch-size, --img-size or model, or --grad-checkpointing auto",
        ) from exc
    if before <= 1:
        words = f": {first_line(exc)}" if str(exc) else ""
        unsupported = "; or oneDNN does not support an operation of the model in this precision"
        raise DlcliError(
            f"{job.device} is out of memory with a single sample, in epoch {batch.epoch + 1}{words}",
            hint="use a smaller --img-size or model, --grad-checkpointing auto or --amp bf16"
            + (unsupported if "primitive descriptor" in words else ""),
        ) from exc
    job.batches.plan = plan = plan.limited(math.ceil(before / 2))
    exc.__traceback__ = None  # its frames hold the activations
    job.optimizer.zero_grad(set_to_none=True)
    if job.device.type == "cuda":
        torch.cuda.empty_cache()
    job.emit(
        Warned(
            f"out of memory in epoch {batch.epoch + 1}: micro-batches of {plan.micro_batch} instead of "
            f"{before} from here on; a step still sees {plan.global_batch} samples"
        )
    )
    if job.world.size > 1:
        raise OutOfMemory(plan.micro_batch) from None


def non_finite_gradients(module: nn.Module) -> str:
    """Name the parameters whose gradient of the last step is not finite; "" where that is all, or none.

    The gradient flows backwards, so the cause is often in the last layer of those.
    """
    grads = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    names = [name for name, grad in grads.items() if not torch.isfinite(grad).all()]
    return f", of {listed(names, 3)}" if 0 < len(names) < len(grads) else ""
