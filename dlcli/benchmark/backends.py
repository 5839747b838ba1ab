"""Backends of a benchmark: a format's own runtime, or one of several ways to run a torch model."""

from __future__ import annotations

import platform
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli.data.base import Inputs
from dlcli.data.prepare import trim
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.base import Artifact, Outputs
from dlcli.wording import plural

if TYPE_CHECKING:
    import torch
    from torch import nn

BACKENDS = ("eager", "channels-last", "contiguous", "compile", "cuda-graph")


class TimedCall(ABC):
    """A call of a model on inputs that are ready on its device."""

    @abstractmethod
    def run(self) -> tuple[float, float]:
        """Run it once; return the seconds until its result is ready, and this process's CPU time."""


class HostCall(TimedCall):
    """A call that is synchronous, timed by the host clock."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call

    def run(self) -> tuple[float, float]:
        cpu0, t0 = time.process_time(), time.perf_counter()
        self._call()
        wall_s = time.perf_counter() - t0
        return wall_s, time.process_time() - cpu0


class CudaCall(TimedCall):
    """A call that is asynchronous, timed by two CUDA events on the stream."""

    def __init__(self, call: Callable[[], object], device: torch.device) -> None:
        import torch

        self._call, self._stream = call, torch.cuda.current_stream(device)
        cuda: Any = torch.cuda  # its classes are not typed
        self._before, self._after = (cuda.Event(enable_timing=True) for _ in range(2))

    def run(self) -> tuple[float, float]:
        cpu0 = time.process_time()
        self._before.record(self._stream)
        self._call()
        self._after.record(self._stream)
        self._after.synchronize()
        cpu_s = time.process_time() - cpu0
        return float(self._before.elapsed_time(self._after)) / 1000, cpu_s


class Runner:
    """Runs an artifact as its format does."""

    def __init__(self, artifact: Artifact, device: str) -> None:
        self.artifact = artifact
        self._requested_device = device

    def prepare(self, inputs: Inputs) -> TimedCall:
        """Prepare a call for a batch. Raises: DlcliError."""
        return self._timed(self.artifact.prepare_call(trim(inputs, self.artifact.card.task)))

    def predict(self, inputs: Inputs) -> Outputs:
        """Return the outputs for a batch, computed as they are timed."""
        return self.artifact.predict(inputs)

    def device(self, threads: int) -> str:
        """Return the device in words."""
        device = self._torch_device()
        if device is None:  # a runtime of its own, which runs on the requested device or fails
            cpu = f"cpu ({plural(threads, 'thread')})"
            on_cpu = self._requested_device == "cpu" or self.provider == "CPUExecutionProvider"
            return cpu if on_cpu else self._requested_device
        from dlcli.zoo.device import describe_device

        return describe_device(device)

    @property
    def provider(self) -> str:
        """What of the runtime executes the artifact; empty where there is no choice."""
        return self.artifact.provider

    def peak_mib(self) -> float:
        """Return the peak memory so far: allocated by torch on a GPU, else resident in the process.

        What other runtimes allocate on a GPU is not known; theirs is the process's too.
        """
        device = self._torch_device()
        if device is not None and device.type == "cuda":
            from dlcli.zoo.device import peak_memory_mib

            peak_mib = peak_memory_mib(device)
            assert peak_mib is not None
            return peak_mib
        return peak_rss_mib()

    def macs(self) -> int:
        """Return the multiply-adds of the card's architecture for one sample."""
        from dlcli.zoo.base import build_model
        from dlcli.zoo.summary import summarize

        card = self.artifact.card
        return summarize(build_model(card.model, card.task, card.transforms), card.task).macs

    def _torch_device(self) -> torch.device | None:
        """Return the device of a torch model, None for other runtimes."""
        device: torch.device | None = getattr(self.artifact, "device", None)
        return device

    def _timed(self, call: Callable[[], object]) -> TimedCall:
        device = self._torch_device()
        on_cuda = device is not None and device.type == "cuda"
        return CudaCall(call, device) if device is not None and on_cuda else HostCall(call)


class TorchRunner(Runner):
    """Runs a torch model in another memory layout, compiled, as a CUDA graph or in mixed precision."""

    def __init__(self, artifact: Artifact, device: str, backend: str, amp: str) -> None:
        """Prepare the model. Raises: DlcliError where it or the device does not support the backend."""
        super().__init__(artifact, device)
        from dlcli.zoo.precision import resolve_precision

        self._backend = backend
        self._module, self._device = _with_layout(artifact, backend)
        self._precision = resolve_precision(amp, self._device)
        self._model = self._compiled(dynamic=False) if backend == "compile" else self._module

    def prepare(self, inputs: Inputs) -> TimedCall:
        """Prepare a call for a batch, captured as a CUDA graph where that is the backend."""
        tensors = self._tensors(trim(inputs, self.artifact.card.task))

        def forward() -> object:
            with self._mode():
                return self._model(*tensors)

        return self._timed(self._captured(forward) if self._backend == "cuda-graph" else forward)

    def predict(self, inputs: Inputs) -> Outputs:
        """Return the outputs; a CUDA graph has a fixed shape, so its kernels run without it here."""
        model = self._compiled(dynamic=True) if self._backend == "compile" else self._module
        tensors = self._tensors(inputs)
        with self._mode():
            outputs: Outputs = model(*tensors).float().cpu().numpy()
        return outputs

    def _torch_device(self) -> torch.device:
        return self._device

    def _tensors(self, inputs: Inputs) -> tuple[torch.Tensor, ...]:
        import torch

        from dlcli.zoo.forward import model_inputs

        arrays = [torch.from_numpy(array).to(self._device) for array in inputs]
        tensors = model_inputs(arrays, self.artifact.card.task)
        if self._backend == "contiguous":
            return tuple(tensor.contiguous() for tensor in tensors)
        return tensors

    @contextmanager
    def _mode(self) -> Iterator[None]:
        import torch

        with torch.inference_mode(), self._precision.autocast():
            yield

    def _compiled(self, *, dynamic: bool) -> Callable[..., torch.Tensor]:
        """Compile for fixed shapes, as timed, or for dynamic ones, to predict varying batches."""
        import torch

        from dlcli.training.compile import check_compiler

        check_compiler(self._device, "--backends compile")
        # Beyond its limit torch silently falls back to eager; here that is an error.
        torch._dynamo.config.recompile_limit = 64
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        return torch.compile(self._module, dynamic=dynamic)

    def _captured(self, forward: Callable[[], object]) -> Callable[[], object]:
        """Capture ``forward`` after warm-up on a side stream, and return what replays it."""
        import torch

        cuda: Any = torch.cuda  # its classes are not typed
        side_stream = cuda.Stream(self._device)
        side_stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side_stream):
            for _ in range(3):
                forward()
        torch.cuda.current_stream(self._device).wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        # A capture records a stream of the current device: work on another device would be missing.
        with torch.cuda.device(self._device), torch.cuda.graph(graph):
            static_output = forward()

        def replay() -> object:
            graph.replay()
            return static_output

        return replay


def check_backend(backend: str, device: str) -> None:
    """Raises: UsageError for an unknown backend, or one that the device does not support."""
    if backend not in BACKENDS:
        raise UsageError(f"--backends {backend!r} is none of {', '.join(BACKENDS)}")
    if backend == "cuda-graph" and not device.startswith("cuda"):
        raise UsageError(f"--backends cuda-graph needs a CUDA device, and this is {device}")


def make_runner(open_file: Callable[[], Artifact], *, backend: str, device: str, amp: str) -> Runner:
    """Open the file with a backend. Raises: DlcliError where that is not possible."""
    check_backend(backend, device)
    artifact = open_file()
    if backend == "eager" and amp == "none":
        return Runner(artifact, device)
    return TorchRunner(artifact, device, backend, amp)


def _with_layout(artifact: Artifact, backend: str) -> tuple[nn.Module, torch.device]:
    import torch

    try:
        module = artifact.module()
    except DlcliError as exc:
        raise DlcliError(f"{backend} and mixed precision are for torch models: {exc.message}") from exc
    if backend in ("channels-last", "contiguous"):
        if not any(p.ndim == 4 for p in module.parameters()):
            raise DlcliError(
                f"{backend}: the model has no convolution over images, so its memory layout is no choice"
            )
        layout = torch.channels_last if backend == "channels-last" else torch.contiguous_format
        module = module.to(memory_format=layout)
    first = next(module.parameters(), None)
    return module, torch.device("cpu") if first is None else first.device


def peak_rss_mib() -> float:
    """Return the peak resident memory of this process, in MiB.

    On Linux from VmHWM: ``ru_maxrss`` also counts what the parent held when it started this process.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 2**20
    import resource

    unit = 1 if platform.system() == "Darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
