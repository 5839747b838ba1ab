"""Check a loss of the user's own on a run's first batch: its values, and whether it can be divided.

A step's batch is divided over micro-batches and processes, and the sums of the parts are added. That is
the loss of the whole batch only where it is a mean over the samples. It is not where samples are
compared with each other (contrastive losses), where a ratio of sums is taken (the Dice loss of a batch),
or where class weights are divided by their sum (torch's ``weight`` with the reduction "mean").
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dlcli.errors import DlcliError
from dlcli.training.loop.determinism import preserved_rng
from dlcli.training.loop.job import FitJob
from dlcli.training.loop.model import set_train_mode
from dlcli.training.loop.step import micro_batches
from dlcli.training.losses.make import DEFAULT_LOSS
from dlcli.training.losses.user_loss import UserLoss
from dlcli.zoo.forward import model_inputs

_VALUE_RTOL, _GRAD_RTOL = 1e-4, 1e-3  # of float32 sums


@dataclass(frozen=True)
class _Part:
    """The summed loss of some samples, their count, and the gradient of the sum by the outputs."""

    total: float
    count: float
    grad: Tensor


def check_user_loss(job: FitJob, loss: UserLoss) -> list[str]:
    """Compute the loss of a first micro-batch, as a whole and in two parts; returns notes on it.

    Outputs are those of the module in evaluation mode. A loss that is not the sum of its parts sets
    ``job.objective.undivided``. Raises: DlcliError where it fails, is not finite, changes its buffers,
    or would have to be divided and cannot be.
    """
    label = loss.code.label
    with preserved_rng(job.device):
        outputs, targets = _outputs(job)
        buffers = {} if loss.module is None else _copied(loss.module.state_dict())
        whole = _checked(loss, outputs, targets)
        if loss.module is not None:
            for name, before in buffers.items():
                if not torch.equal(before, loss.module.state_dict()[name].cpu()):
                    raise DlcliError(
                        f"the loss {label} changes its buffer {name} when it is called, which a resumed "
                        "run would not have",
                        hint="compute it from outputs and targets alone",
                    )
        reason = _difference(loss, outputs, targets, whole)
    default = DEFAULT_LOSS[job.task.kind].replace("_", " ")
    notes = [f"train loss is {label}; the loss of val and of eval stays {default}"]
    if reason:
        job.objective.undivided = f"{label} is not a mean over samples: {reason}"
        plan = job.batches.plan
        if plan.world_size > 1 or plan.micro_batch < plan.rank_batch:
            raise DlcliError(
                f"the loss {job.objective.undivided}; so a step's batch cannot be divided into "
                "micro-batches or over devices",
                hint="train with --grad-accum-steps 1 on one device, or return a value for each sample",
            )
        notes.append(f"{job.objective.undivided}; so batches are not divided")
    return notes


def _outputs(job: FitJob) -> tuple[Tensor, Tensor]:
    """Float32 outputs and augmented targets of the first micro-batch of this process."""
    batch = next(job.batches.epoch(0, augmented=True))
    part = micro_batches(job, batch)[0] if len(batch) else job.batches.example()
    inputs, targets = job.objective.augmented(part if len(part) else job.batches.example())
    module = job.model.module.eval()
    with torch.no_grad(), job.precision.autocast():
        outputs: Tensor = module(*model_inputs(inputs, job.task))
    set_train_mode(module)
    return outputs.float(), targets


def _checked(loss: UserLoss, outputs: Tensor, targets: Tensor) -> _Part:
    """Raises: DlcliError where the loss or its gradient is not finite, and the outputs are."""
    part = _part(loss, outputs, targets)
    if not torch.isfinite(outputs).all():
        return part  # no fault of the loss
    finite = torch.isfinite(torch.tensor(part.total)).item()
    if not finite or not torch.isfinite(part.grad).all():
        what = f"is {part.total / part.count:g}" if not finite else "has a gradient that is not finite"
        raise DlcliError(
            f"the loss {loss.code.label} {what} on the first batch, whose outputs are finite",
            hint="the logarithm or root of a number that may be 0 or negative: log_softmax and "
            "logsigmoid take outputs as they are",
        )
    return part


def _part(loss: UserLoss, outputs: Tensor, targets: Tensor) -> _Part:
    own = outputs.clone().requires_grad_()
    total, count = loss(own, targets)
    with loss.code.errors(f"the gradient of {loss.code.label} cannot be computed"):
        grad = torch.autograd.grad(total, own, allow_unused=True)[0]
    if grad is None:
        raise DlcliError(
            f"the loss {loss.code.label} does not depend on the outputs",
            hint="compute it from its first argument",
        )
    return _Part(float(total.detach()), float(count), grad)


def _difference(loss: UserLoss, outputs: Tensor, targets: Tensor, whole: _Part) -> str:
    """How the loss differs from that of its parts; "" where it does not, or for a single sample.

    Two divisions: halves alone may have equal sums of class weights by chance.
    """
    if not torch.isfinite(outputs).all():
        return ""
    sizes = {len(outputs) // 2, len(outputs) // 3} - {0}
    reasons = (_difference_of(loss, outputs, targets, whole, size) for size in sorted(sizes))
    return next(filter(None, reasons), "")


def _difference_of(loss: UserLoss, outputs: Tensor, targets: Tensor, whole: _Part, first: int) -> str:
    """The difference where the first ``first`` samples are one part, and the rest is the other."""
    sizes = [first, len(outputs) - first]
    divided = f"{sizes[0]} and {sizes[1]} of the {len(outputs)} samples of a batch"
    try:
        parts = [
            _part(loss, o, t)
            for o, t in zip(torch.split(outputs, sizes), torch.split(targets, sizes), strict=True)
        ]
    except DlcliError as exc:
        return f"on {divided}, {exc.message}"
    total, count = sum(part.total for part in parts), whole.count
    scale = max(abs(whole.total), *(abs(part.total) for part in parts))
    if not abs(whole.total - total) <= _VALUE_RTOL * scale:  # also for NaN
        mean = f"the mean of those on {divided} is {total / count:.4g}"
        return f"{mean}, and on all {whole.total / count:.4g}"
    grad = torch.cat([part.grad for part in parts])
    atol = _GRAD_RTOL * float(whole.grad.abs().max())
    if not torch.allclose(grad, whole.grad, rtol=_GRAD_RTOL, atol=atol):
        return f"its gradient on {divided} is not that on all"
    return ""


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
