"""Losses of the user's own code, ``--loss losses.py:focal``, or of a package (``dlcli.losses``).

A function of (outputs, targets), or a class such as an nn.Module whose objects are called so;
``loss.args`` are the keyword arguments of the function or of the class::

    def focal(outputs, targets, gamma=2.0):
        log_p = F.log_softmax(outputs, dim=1)
        log_p = log_p.gather(1, targets[:, None])[:, 0]
        return -((1 - log_p.exp()) ** gamma) * log_p

It returns a scalar, which is taken as the mean over the samples; or values in the leading dimensions of
the outputs, (B,) or (B, ...), and the mean of a sample's values is its loss. Outputs are float32.

| task | outputs | targets |
| --- | --- | --- |
| classification | logits (B, K) | class indices int64 (B,); with MixUp, CutMix: float32 (B, K) |
| multilabel | logits (B, K) | labels, or with MixUp their probabilities, float32 (B, K) |
| regression | numbers (B, R), scaled | the same, by mean and std of the training split |
| forecast | numbers (B, horizon, R), scaled | the same |
| embedding | vectors (B, D) | class indices int64 (B,) |
| seq2seq | logits (B, T, V) | next tokens int64 (B, T), 0 where there is padding |

For seq2seq a scalar is the mean over the tokens that are no padding, and values are (B, T), those of
padding left out, or (B,), the mean over a sample's tokens.

A parameter ``weight`` gets the class weights of ``--balance weights``, float32 (K,), None without them.
Unlike registered losses, it gets no other setting: defaults in the user's file stay what they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dlcli.call_arguments import check_arguments, is_required, takes
from dlcli.config import LossConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.task import PAD, TaskSpec
from dlcli.training.losses.base import LOSSES, LossContext, sample_count, target_scaler
from dlcli.trust import LOSSES_GROUP, names_code
from dlcli.user_code import UserObject, load_object

_PASSED = ("outputs", "targets")


def is_user_loss(config: LossConfig) -> bool:
    """Whether the settings name a loss of the user's own code."""
    name = config.name
    if name is None or any(key.partition("/")[2] == name for key in LOSSES.names()):
        return False
    return names_code(name, LOSSES_GROUP)  # it reads the metadata of all packages


class UserLoss:
    """A loss of the user's own code as a `Loss`, whose sums add up over the parts of a batch.

    They do where the user's values do: see `dlcli.training.loss_check`.
    """

    def __init__(self, code: UserObject, context: LossContext, config: LossConfig) -> None:
        """Raises: UsageError where the arguments do not fit; DlcliError from the user's code."""
        self.code = code
        self.task = context.task
        self._args = _arguments(code, context, config)
        self._function = code.value
        if inspect.isclass(code.value):
            with code.errors(f"{code.label} cannot be built"):
                self._function = code.value(**self._args)
            self._args = {}
        _check_built(self._function, code)
        self._targets = _targets_of(context.task)
        self._device: torch.device | None = None

    @property
    def module(self) -> nn.Module | None:
        """The loss where it is an nn.Module."""
        return self._function if isinstance(self._function, nn.Module) else None

    def __call__(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The sum over the samples (for seq2seq: tokens) and their number. Raises: DlcliError."""
        self._move_to(outputs.device)
        targets = self._targets(outputs, targets)
        try:
            values = self._function(outputs, targets, **self._args)
        except Exception:
            got = f"outputs {_form(outputs)} and targets {_form(targets)}"
            with self.code.errors(f"the loss {self.code.label} failed, called with {got}"):
                raise
        return self._sums(self._checked(values, outputs), outputs, targets)

    def _move_to(self, device: torch.device) -> None:
        """Move the module's buffers and the class weights, once: outputs are always on one device."""
        if device == self._device:
            return
        self._device = device
        if self.module is not None:
            self.module.to(device)
        weight = self._args.get("weight")
        if isinstance(weight, Tensor):
            self._args["weight"] = weight.to(device)

    def _checked(self, values: Any, outputs: Tensor) -> Tensor:
        """The values, in the dtype of the outputs. Raises: DlcliError where they are no loss."""
        label = self.code.label
        if not isinstance(values, Tensor):
            raise DlcliError(
                f"the loss {label} returned a {type(values).__name__}, not a tensor",
                hint="return the mean over the samples, or a value for each",
            )
        if values.shape != outputs.shape[: values.ndim]:
            raise DlcliError(
                f"the loss {label} returned the shape {tuple(values.shape)} for outputs of "
                f"{tuple(outputs.shape)}",
                hint="return a scalar, the mean over the samples, or a value for each of the "
                f"{len(outputs)} samples",
            )
        if not values.is_floating_point() or (outputs.requires_grad and not values.requires_grad):
            raise DlcliError(
                f"the loss {label} returned values without a gradient ({_form(values)})",
                hint="compute it from the outputs with torch, without detach(), item(), argmax() or "
                "numpy",
            )
        return values.to(outputs.dtype)

    def _sums(self, values: Tensor, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if self.task.kind != "seq2seq":
            count = sample_count(outputs)
            if values.ndim == 0:
                return values * count, count
            return values.reshape(len(values), -1).mean(1).sum(), count
        tokens = (targets != PAD).to(outputs.dtype)  # (B, T)
        if values.ndim == 3:
            values = values.mean(2)
        weights = tokens if values.ndim == 2 else tokens.sum(1)
        return (values * weights).sum(), tokens.sum()


def load_user_loss(context: LossContext, config: LossConfig) -> UserLoss:
    """Run the code that ``loss.name`` names and make its loss. Raises: UsageError, DlcliError."""
    assert config.name is not None
    code = load_object(config.name, LOSSES_GROUP, config.args)
    loss = UserLoss(code, context, config)
    code.works()
    return loss


def _arguments(code: UserObject, context: LossContext, config: LossConfig) -> dict[str, Any]:
    """The keyword arguments: ``loss.args``, and class weights for a parameter ``weight``.

    Raises: UsageError where the function or class cannot be called with them.
    """
    args: dict[str, Any] = dict(config.args)
    called = code.value.forward if isinstance(code.value, nn.Module) else code.value
    has_weight = takes(called, "weight") and "weight" not in args
    if context.class_weights is not None and not has_weight:
        raise UsageError(
            f"--balance weights: the loss {code.label} has no parameter weight for the class weights",
            hint="give it one, for a tensor with the weight of each class, or use --balance sampler",
        )
    if has_weight and (context.class_weights is not None or is_required(called, "weight")):
        args["weight"] = context.class_weights
    check_arguments(
        code.label, called, "loss.args", args, () if inspect.isclass(code.value) else _PASSED
    )
    return args


def _check_built(loss: Any, code: UserObject) -> None:
    """Raises: DlcliError for a loss that cannot be called, or whose parameters nothing would train."""
    if not callable(loss):
        raise DlcliError(f"{code.label} is a class whose objects cannot be called")
    if isinstance(loss, nn.Module):
        names = [name for name, p in loss.named_parameters() if p.requires_grad]
        if names:
            raise DlcliError(
                f"the loss {code.label} has parameters of its own ({', '.join(names)}), which dlcli "
                "neither trains nor saves",
                hint="put them into the model, or make them buffers if they are constants",
            )


def _targets_of(task: TaskSpec) -> Callable[[Tensor, Tensor], Tensor]:
    """A function (outputs, targets of a reader) -> the targets that the user's loss gets."""
    if task.targets:
        return target_scaler(task)
    as_numbers = task.kind == "multilabel"

    def convert(outputs: Tensor, targets: Tensor) -> Tensor:
        return targets.to(outputs.dtype) if as_numbers or targets.is_floating_point() else targets

    return convert


def _form(tensor: Tensor) -> str:
    """Dtype and shape: ``float32 (64, 10)``."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
