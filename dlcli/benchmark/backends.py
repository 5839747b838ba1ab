"""How a worker runs its file: by itself, or a torch model in one of several ways."""

from __future__ import annotations

import platform
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli.data.base import Inputs
from dlcli.data.prepare import trim
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.base import Artifact, Outputs

if TYPE_CHECKING:
    import torch
    from torch import nn

BACKENDS = ("eager", "channels-last", "contiguous", "compile", "cuda-graph")


class Call(ABC):
    """A call on tensors that lie ready."""

    @abstractmethod
    def run(self) -> float:
        """Do it once; seconds until its result is there."""


class HostCall(Call):
    """A call that returns when its result is there."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act

    def run(self) -> float:
        t0 = time.perf_counter()
        self._act()
        return time.perf_counter() - t0


class CudaCall(Call):
    """A call that only queues its work: timed by two events on the stream."""

    def __init__(self, act: Callable[[], object], device: torch.device) -> None:
        import torch

        self._act, self._stream = act, torch.cuda.current_stream(device)
        cuda: Any = torch.cuda  # its classes are not typed
        self._before, self._after = (cuda.Event(enable_timing=True) for _ in range(2))

    def run(self) -> float:
        self._before.record(self._stream)
        self._act()
        self._after.record(self._stream)
        self._after.synchronize()
        return float(self._before.elapsed_time(self._after)) / 1000


class Runner:
    """An artifact as its format runs it."""

    def __init__(self, artifact: Artifact, device: str) -> None:
        self.artifact = artifact
        self._asked = device

    def prepare(self, inputs: Inputs) -> Call:
        """The call for a batch. Raises: DlcliError."""
        return self._clocked(self.artifact.prepared(trim(inputs, self.artifact.card.task)))

    def answer(self, inputs: Inputs) -> Outputs:
        """The answers for a batch, by the way that is timed."""
        return self.artifact.predict(inputs)

    def device(self, threads: int) -> str:
        """Where it runs, in words."""
        where = self._where()
        if where is None:  # a runtime of its own, which takes the device that was asked for or fails
            cpu = f"cpu ({threads} thread{'' if threads == 1 else 's'})"
            return cpu if self._asked == "cpu" else self._asked
        from dlcli.zoo.device import describe_device

        return describe_device(where)

    def peak_mib(self) -> float:
        """Most memory so far: on a GPU what torch allocated there, else what the process held.

        What other runtimes hold on a GPU is not known; theirs is the process's too.
        """
        where = self._where()
        if where is not None and where.type == "cuda":
            from dlcli.zoo.device import peak_memory_mib

            found = peak_memory_mib(where)
            assert found is not None
            return found
        return peak_rss_mib()

    def macs(self) -> int:
        """Multiply-adds of the card's architecture on one sample."""
        from dlcli.zoo.base import build_model
        from dlcli.zoo.summary import summarize

        card = self.artifact.card
        return summarize(build_model(card.model, card.task, card.transforms), card.task).macs

    def _where(self) -> torch.device | None:
        """Its torch device, where it has one."""
        found: torch.device | None = getattr(self.artifact, "device", None)
        return found

    def _clocked(self, act: Callable[[], object]) -> Call:
        where = self._where()
        return CudaCall(act, where) if where is not None and where.type == "cuda" else HostCall(act)


class TorchRunner(Runner):
    """A torch model in another memory layout, compiled, as a CUDA graph or in mixed precision."""

    def __init__(self, artifact: Artifact, device: str, backend: str, amp: str) -> None:
        """Lay it out. Raises: DlcliError where the model or the device cannot do it."""
        super().__init__(artifact, device)
        import torch

        self._backend = backend
        self._module, self._at = _placed(artifact, backend)
        self._amp = {"none": None, "fp16": torch.float16, "bf16": torch.bfloat16}[amp]
        self._model = self._compiled(dynamic=False) if backend == "compile" else self._module

    def prepare(self, inputs: Inputs) -> Call:
        """The call for a batch, captured where it is a CUDA graph."""
        tensors = self._tensors(trim(inputs, self.artifact.card.task))

        def act() -> object:
            with self._mode():
                return self._model(*tensors)

        return self._clocked(self._captured(act) if self._backend == "cuda-graph" else act)

    def answer(self, inputs: Inputs) -> Outputs:
        """The answers; a CUDA graph has one shape, so for it the same kernels are called one by one."""
        model = self._compiled(dynamic=True) if self._backend == "compile" else self._module
        tensors = self._tensors(inputs)
        with self._mode():
            out: Outputs = model(*tensors).float().cpu().numpy()
        return out

    def _where(self) -> torch.device:
        return self._at

    def _tensors(self, inputs: Inputs) -> tuple[torch.Tensor, ...]:
        import torch

        from dlcli.zoo.forward import model_inputs

        arrays = [torch.from_numpy(array).to(self._at) for array in inputs]
        tensors = model_inputs(arrays, self.artifact.card.task)
        if self._backend == "contiguous":
            return tuple(tensor.contiguous() for tensor in tensors)
        return tensors

    @contextmanager
    def _mode(self) -> Iterator[None]:
        import torch

        amp: AbstractContextManager[Any] = nullcontext()
        if self._amp is not None:
            amp = torch.autocast(self._at.type, dtype=self._amp)
        with torch.inference_mode(), amp:
            yield

    def _compiled(self, *, dynamic: bool) -> Callable[..., torch.Tensor]:
        """One kernel a shape for timing; one for all shapes where answers of many lengths are asked."""
        import torch

        from dlcli.training.compile import check_compiler

        check_compiler(self._at, "--backends compile")
        # Beyond its limit torch falls back to eager without a word; here that is a failure.
        torch._dynamo.config.recompile_limit = 64
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        return torch.compile(self._module, dynamic=dynamic)

    def _captured(self, act: Callable[[], object]) -> Callable[[], object]:
        """What replays ``act``: recorded after some calls on a stream of its own, as torch asks."""
        import torch

        cuda: Any = torch.cuda  # its classes are not typed
        side = cuda.Stream(self._at)
        side.wait_stream(torch.cuda.current_stream(self._at))
        with torch.cuda.stream(side):
            for _ in range(3):
                act()
        torch.cuda.current_stream(self._at).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # A capture runs on a stream of the current device: work on another one would not be in it.
        with torch.cuda.device(self._at), torch.cuda.graph(graph):
            kept = act()

        def replay() -> object:
            graph.replay()
            return kept

        return replay


def check_backend(backend: str, device: str) -> None:
    """Raises: UsageError for a name that is none, and for one that the device cannot be asked in."""
    if backend not in BACKENDS:
        raise UsageError(f"--backends {backend!r} is none of {', '.join(BACKENDS)}")
    if backend == "cuda-graph" and not device.startswith("cuda"):
        raise UsageError(f"--backends cuda-graph needs a CUDA device, and this is {device}")


def make_runner(open_file: Callable[[], Artifact], *, backend: str, device: str, amp: str) -> Runner:
    """Open the file and choose how to run it. Raises: DlcliError where that cannot be."""
    check_backend(backend, device)
    artifact = open_file()
    if backend == "eager" and amp == "none":
        return Runner(artifact, device)
    return TorchRunner(artifact, device, backend, amp)


def _placed(artifact: Artifact, backend: str) -> tuple[nn.Module, torch.device]:
    import torch

    try:
        module = artifact.module()
    except DlcliError as exc:
        raise DlcliError(f"{backend} and mixed precision are for torch models: {exc.message}") from exc
    if backend in ("channels-last", "contiguous"):
        if not any(p.ndim == 4 for p in module.parameters()):
            raise DlcliError(f"{backend}: the model has no convolution over images to lay out")
        layout = torch.channels_last if backend == "channels-last" else torch.contiguous_format
        module = module.to(memory_format=layout)
    first = next(module.parameters(), None)
    return module, torch.device("cpu") if first is None else first.device


def peak_rss_mib() -> float:
    """The most memory that this process has held, in MiB.

    On Linux from VmHWM: ``ru_maxrss`` also counts what the parent held when it started this one.
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
