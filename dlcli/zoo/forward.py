"""Running a module: moving it to a device, loading its tensors, batches to inputs, inputs to outputs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from dlcli.data.base import Inputs
from dlcli.task import ImageInput, TaskSpec
from dlcli.zoo.device import keep_freed_memory

_CONTIGUOUS_ONLY = "_dlcli_contiguous_only"  # attribute of modules


def place(module: nn.Module, device: torch.device) -> nn.Module:
    """Move a module to the device, its convolution kernels in the layout of `input_tensor`."""
    if device.type == "cpu":
        keep_freed_memory()
    module = module.to(device)
    if has_images(module):
        module = module.to(memory_format=torch.channels_last)
    return module


def has_images(module: nn.Module) -> bool:
    """Whether a module has kernels of two-dimensional convolutions, for which the layout is a choice."""
    if is_contiguous_only(module):
        return False
    return any(parameter.ndim == 4 for parameter in module.parameters())


def is_contiguous_only(module: nn.Module) -> bool:
    """Whether `keep_contiguous` was called for a module."""
    return bool(getattr(module, _CONTIGUOUS_ONLY, False))


def keep_contiguous(module: nn.Module) -> None:
    """Let a module have torch's own layout wherever it is placed: `has_images` is False from now on.

    For the code of others, in which ``x.view(len(x), -1)`` is common: with channels-last strides it
    raises a RuntimeError.
    """
    setattr(module, _CONTIGUOUS_ONLY, True)
    make_contiguous(module)


def make_contiguous(module: nn.Module) -> RemovableHandle:
    """Give a placed module's kernels and its inputs torch's own layout instead of channels-last.

    Removing the handle leaves the inputs as they come; the kernels stay.
    """
    module.to(memory_format=torch.contiguous_format)
    return module.register_forward_pre_hook(
        lambda _, inputs: tuple(_contiguous(tensor) for tensor in inputs)
    )


def _contiguous(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with the strides of its shape: images of one channel may have those of both layouts."""
    return tensor.contiguous().view(-1).view(tensor.shape) if tensor.ndim == 4 else tensor


def load_tensors(module: nn.Module, tensors: Mapping[str, torch.Tensor], *, strict: bool = True) -> None:
    """``load_state_dict`` with the version metadata that some modules need (torchvision's MNASNet).

    It is not among the tensors, so no file of tensors holds it. Raises: RuntimeError as torch does.
    """
    state = OrderedDict(tensors)
    state._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
    module.load_state_dict(state, strict=strict)


def model_inputs(inputs: Sequence[torch.Tensor], task: TaskSpec) -> tuple[torch.Tensor, ...]:
    """A batch of `dlcli.data.base.Inputs`, on the device, as the module takes it.

    Pixels are normalised here; everything else was encoded to its final form by the reader.
    """
    if isinstance(task.input, ImageInput):
        return (input_tensor(inputs[0], task.input),)
    return tuple(inputs)


def input_tensor(pixels: torch.Tensor, spec: ImageInput) -> torch.Tensor:
    """uint8 (N, H, W, C) on any device to float32 (N, C, H, W): (x/255 - mean)/std.

    Pixels that are float32 already are overwritten. With more than one channel the result keeps the
    channels-last strides of the pixels, which convolutions on CPU and tensor cores read faster. In
    NumPy it is `dlcli.pixels.decode.normalize`, equal up to rounding: here it is one product and sum.
    """
    count, height, width, channels = pixels.shape
    scale, shift = _scale_and_shift(spec, width, pixels.device)
    # Whole rows, not channels, are the inner dimension: a loop over three numbers is not vectorised.
    rows = pixels.reshape(count, height, width * channels).float()
    return rows.mul_(scale).add_(shift).view(count, height, width, channels).permute(0, 3, 1, 2)


@lru_cache(maxsize=8)
def _scale_and_shift(
    spec: ImageInput, width: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """1/(255 std) and -mean/std for each number of a row of pixels, (W * C,), of one channel (1,).

    Cached, since a copy to a GPU waits for it.
    """
    scale = [1 / (255 * std) for std in spec.std]
    shift = [-mean / std for mean, std in zip(spec.mean, spec.std, strict=True)]
    times = width if spec.channels > 1 else 1
    with torch.inference_mode(False):
        return (
            torch.tensor(scale * times, dtype=torch.float32, device=device),
            torch.tensor(shift * times, dtype=torch.float32, device=device),
        )


def predict(
    module: nn.Module, inputs: Inputs, task: TaskSpec, device: torch.device
) -> npt.NDArray[np.float32]:
    """The outputs of a module in eval mode, in float32, for a batch of host arrays."""
    with torch.inference_mode():
        tensors = [torch.from_numpy(array).to(device) for array in inputs]
        outputs: npt.NDArray[np.float32] = module(*model_inputs(tensors, task)).float().cpu().numpy()
    return outputs


def prepare_call(
    module: nn.Module, inputs: Inputs, task: TaskSpec, device: torch.device
) -> Callable[[], torch.Tensor]:
    """The module's call on a batch that is on the device; on a GPU it returns at once."""
    tensors = model_inputs([torch.from_numpy(array).to(device) for array in inputs], task)

    def call() -> torch.Tensor:
        with torch.inference_mode():
            outputs: torch.Tensor = module(*tensors)
        return outputs

    return call
