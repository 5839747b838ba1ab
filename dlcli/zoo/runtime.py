"""Where and how a module runs: its device, and the way from pixels to its input."""

from __future__ import annotations

import ctypes
import platform
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dlcli.data.base import Inputs
from dlcli.errors import DlcliError, UsageError
from dlcli.task import ImageInput, TaskSpec


def resolve_device(name: str) -> torch.device:
    """The device of ``--device``; "auto" is the first of cuda, xpu, mps and cpu that is there.

    Raises: UsageError for a name that is none, DlcliError for a device that is not there.
    """
    if name == "auto":
        return next((torch.device(kind) for kind in ("cuda", "xpu", "mps") if _count(kind)), _CPU)
    match = re.fullmatch(r"(cpu|cuda|xpu|mps)(?::(\d+))?", name)
    if match is None:
        raise UsageError(f"--device {name!r} is none of auto, cpu, cuda, cuda:N, xpu, xpu:N, mps")
    kind, index = match[1], int(match[2] or 0)
    if kind != "cpu" and index >= _count(kind):
        raise DlcliError(
            f"--device {name}: this machine has {_count(kind)} {kind} devices that torch can use",
            hint="dlcli info shows what torch sees and why",
        )
    return torch.device(name)


def place(module: nn.Module, device: torch.device) -> nn.Module:
    """The module on the device, its convolution kernels in the layout of `input_tensor`."""
    if device.type == "cpu":
        _keep_freed_memory()
    module = module.to(device)
    if any(p.ndim == 4 for p in module.parameters()):
        module = module.to(memory_format=torch.channels_last)
    return module


def load_tensors(module: nn.Module, tensors: Mapping[str, torch.Tensor], *, strict: bool = True) -> None:
    """``load_state_dict`` with the version marks that some modules ask for (torchvision's MNASNet).

    They are no tensors, so no file of tensors holds them. Raises: RuntimeError as torch does.
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

    With more than one channel the result keeps the channels-last strides of the pixels, which
    convolutions on CPU and tensor cores read faster. The same formula in NumPy is
    `dlcli.data.images.decode.normalize`.
    """
    mean, std = _statistics(spec, pixels.device)
    return pixels.permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std)


@lru_cache(maxsize=8)
def _statistics(spec: ImageInput, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation (C, 1, 1) on the device; made once, since a copy to a GPU waits for it."""
    with torch.inference_mode(False):
        mean = torch.tensor(spec.mean, dtype=torch.float32, device=device).view(-1, 1, 1)
        std = torch.tensor(spec.std, dtype=torch.float32, device=device).view(-1, 1, 1)
    return mean, std


def predict(
    module: nn.Module, inputs: Inputs, task: TaskSpec, device: torch.device
) -> npt.NDArray[np.float32]:
    """The answers of a module in eval mode, in float32, for a batch of host arrays."""
    with torch.inference_mode():
        tensors = [torch.from_numpy(array).to(device) for array in inputs]
        answer = module(*model_inputs(tensors, task))
        out: npt.NDArray[np.float32] = answer.float().cpu().numpy()
    return out


def prepared(
    module: nn.Module, inputs: Inputs, task: TaskSpec, device: torch.device
) -> Callable[[], torch.Tensor]:
    """The module's call on a batch that lies on the device; on a GPU it returns at once."""
    tensors = model_inputs([torch.from_numpy(array).to(device) for array in inputs], task)

    def call() -> torch.Tensor:
        with torch.inference_mode():
            answer: torch.Tensor = module(*tensors)
        return answer

    return call


def describe_device(device: torch.device) -> str:
    """The device's name for people: "cuda:0 (NVIDIA H200)", "cpu (2 threads)"."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"cpu ({threads} thread{'' if threads == 1 else 's'})"
    return str(device)


@cache
def _keep_freed_memory() -> None:
    """Let glibc reuse large freed blocks instead of giving them back to the system.

    Every step frees its activations and asks for them again; by default each large one is unmapped
    and its pages are zeroed anew. Keeping them made a ResNet-18 step at 224 px 10 to 23 % faster for
    13 % more memory (2 cores). Other C libraries have no such switch and are left alone.
    """
    if not sys.platform.startswith("linux") or "glibc" not in platform.libc_ver()[0]:
        return
    libc = ctypes.CDLL(None)
    mmap_max, trim_threshold = -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)


def memory_mib(device: torch.device) -> float | None:
    """Peak memory that torch has allocated on the device since the start, in MiB; None on CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return None


def _count(kind: str) -> int:
    if kind == "cuda":
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "xpu":
        return torch.xpu.device_count() if torch.xpu.is_available() else 0
    return int(torch.backends.mps.is_available())


_CPU = torch.device("cpu")
