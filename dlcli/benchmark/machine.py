"""How fast this machine is: products, convolutions, memory, copies, a ResNet-18 step, decoding.

`measure_machine` starts this module as a child, which measures the CPU and then the accelerator; a
measurement that kills it costs one row. Each is repeated after a call that is not counted, for `SECONDS`
and at least `CALLS` times, unless that takes longer than `LIMIT_S`.
"""

from __future__ import annotations

import io
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcli.machine.child import run_probe
from dlcli.machine.operations import half_type
from dlcli.machine.probe import Steps
from dlcli.machine.threads import usable_cores
from dlcli.task import ImageInput

if TYPE_CHECKING:
    pass

MODULE = "dlcli.benchmark.machine"
SECONDS, CALLS, LIMIT_S = 1.0, 5, 12.0
_SIZE = 5000  # of the square matrices: what the tutorials multiply
_MAX_CALL_S = 4.0  # a product that takes longer is measured on smaller matrices
_COPY_BYTES = 256 << 20  # far more than caches hold
_CONV = (32, 64, 56)  # batch, channels in and out, height and width: the first stage of a ResNet
_PHOTO = (500, 375)
_JPEGS = 32
_PIXELS, _CPU_BATCH, _BATCH = 224, 8, 64  # of the training step


@dataclass(frozen=True)
class Measurement:
    """One figure: ``rate`` in ``unit`` at the median call, its range over the calls, their number.

    ``what`` is the same for every device; ``size`` says on what it was measured. ``error`` is why there
    is no figure.
    """

    what: str
    device: str
    size: str = ""
    unit: str = ""
    rate: float | None = None
    low: float | None = None
    high: float | None = None
    calls: int = 0
    error: str | None = None


def measure_machine(device: str, *, timeout_s: float = 240.0) -> list[Measurement]:
    """Measure the CPU and, unless it is the CPU, ``device``: a minute or two, at most ``timeout_s``."""
    devices = ["cpu"] if device == "cpu" else ["cpu", device]
    outcomes = run_probe("bench", *devices, timeout_s=timeout_s, module=MODULE)
    rows = []
    for step, outcome in outcomes.items():
        what, _, on = step.rpartition(" on ")
        value = outcome.value or {}
        rows.append(Measurement(what or step, on, **value, error=outcome.error))
    return rows


def speedups(rows: Sequence[Measurement]) -> dict[tuple[str, str], float]:
    """Return rates over the CPU's, by (what, device).

    A precision that was not measured on the CPU is compared with float32 there.
    """
    on_cpu = {row.what: row.rate for row in rows if row.device == "cpu"}
    ratios = {}
    for row in rows:
        base = on_cpu.get(row.what) or on_cpu.get(f"{row.what.rpartition(' ')[0]} float32")
        if row.device != "cpu" and row.rate and base:
            ratios[row.what, row.device] = row.rate / base
    return ratios


def main(argv: list[str]) -> None:
    """Measure on devices: ``bench DEVICE... [SKIPPED STEP]...``; the records go to stdout."""
    devices = [name for name in argv[1:] if " on " not in name]
    skip = [name for name in argv[1:] if " on " in name]
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        warnings.simplefilter("ignore")
        steps = Steps(out, skip)
        for device in devices:
            _measure(steps, device)


def _measure(steps: Steps, device: str) -> None:
    from dlcli.zoo.device import set_threads

    set_threads()
    half = half_type(device)
    kinds = ["float32", *(["TF32"] if device.startswith("cuda") else []), half]
    for kind in kinds:
        steps.run(f"matmul {kind} on {device}", lambda kind=kind: _matmul(device, kind))  # type: ignore[misc]
    speeds = {}
    for kind in ("float32", half):
        value = steps.run(f"conv2d {kind} on {device}", lambda kind=kind: _conv2d(device, kind))  # type: ignore[misc]
        speeds[kind] = value["rate"] if value else 0.0
    steps.run(f"memory bandwidth on {device}", lambda: _bandwidth(device))
    if device != "cpu":
        steps.run(f"copy to the device on {device}", lambda: _copy(device, pinned=False))
        steps.run(f"copy from pinned memory on {device}", lambda: _copy(device, pinned=True))
        steps.run(f"copy back on {device}", lambda: _copy(device, pinned=False, back=True))
    # A CPU without instructions for it takes a minute for one step in bfloat16.
    worthwhile = [kind for kind, rate in speeds.items() if rate >= 0.5 * speeds["float32"]]
    for kind in worthwhile:
        steps.run(f"ResNet-18 step {kind} on {device}", lambda kind=kind: _resnet(device, kind))  # type: ignore[misc]
    if device == "cpu":
        steps.run(f"JPEG decoding on {device}", _decoding)


def time_calls(
    call: Callable[[], object], wait: Callable[[], object], *, seconds: float, limit_s: float
) -> list[float]:
    """Return the seconds of each call, after one that is not counted; ``wait`` ends what is queued."""
    call()
    wait()
    times: list[float] = []
    end = time.perf_counter() + limit_s
    while sum(times) < seconds or len(times) < CALLS:
        t0 = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - t0)
        if time.perf_counter() > end:
            break
    return times


def _rates(call: Callable[[], object], device: str, work: float, unit: str, size: str) -> dict[str, Any]:
    """Measure a call that does ``work`` of a unit."""
    times = time_calls(call, lambda: _wait(device), seconds=SECONDS, limit_s=LIMIT_S)
    low, high = work / max(times), work / min(times)
    rate = work / statistics.median(times)
    return {"size": size, "unit": unit, "rate": rate, "low": low, "high": high, "calls": len(times)}


def _wait(device: str) -> None:
    import torch

    if device != "cpu":
        torch.accelerator.synchronize(torch.device(device))


def _matmul(device: str, kind: str) -> dict[str, Any]:
    """A product of square matrices, in TFLOP/s."""
    import torch

    dtype = torch.float32 if kind == "TF32" else getattr(torch, kind)
    torch.set_float32_matmul_precision("high" if kind == "TF32" else "highest")
    pilot = torch.randn(500, 500, device=device, dtype=dtype)
    pilot_s = min(time_calls(lambda: pilot @ pilot, lambda: _wait(device), seconds=0.02, limit_s=1.0))
    size = _SIZE
    while pilot_s * (size / 500) ** 3 > _MAX_CALL_S and size > 500:
        size //= 2
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return _rates(lambda: a @ b, device, 2 * size**3 / 1e12, "TFLOP/s", f"{size} x {size}")


def _conv2d(device: str, kind: str) -> dict[str, Any]:
    """A 3x3 convolution, forward, in TFLOP/s."""
    import torch

    batch, channels, side = _CONV
    dtype = getattr(torch, kind)
    x = torch.randn(batch, channels, side, side, device=device, dtype=dtype)
    x = x.to(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    weight = weight.to(memory_format=torch.channels_last)
    flop = 2 * batch * side**2 * channels**2 * 9
    size = f"{batch} x {channels} x {side} x {side}, 3 x 3"

    def convolve() -> torch.Tensor:
        return torch.nn.functional.conv2d(x, weight, padding=1)

    return _rates(convolve, device, flop / 1e12, "TFLOP/s", size)


def _bandwidth(device: str) -> dict[str, Any]:
    """A copy within the device's memory: bytes that are read and written."""
    import torch

    source = torch.zeros(_COPY_BYTES // 4, device=device)
    target = torch.zeros_like(source)
    work, size = 2 * _COPY_BYTES / 1e9, f"{_COPY_BYTES >> 20} MiB"
    return _rates(lambda: target.copy_(source), device, work, "GB/s", size)


def _copy(device: str, *, pinned: bool, back: bool = False) -> dict[str, Any]:
    """A copy between the host and the device."""
    import torch

    host = torch.zeros(_COPY_BYTES // 4, pin_memory=pinned)
    there = torch.zeros(_COPY_BYTES // 4, device=device)
    source, target = (there, host) if back else (host, there)
    work, size = _COPY_BYTES / 1e9, f"{_COPY_BYTES >> 20} MiB"
    return _rates(lambda: target.copy_(source, non_blocking=pinned), device, work, "GB/s", size)


def _image(side: int) -> ImageInput:
    """RGB images of one size, resized from the whole."""
    norm = (0.5, 0.5, 0.5)
    return ImageInput(channels=3, height=side, width=side, resize_size=side, mean=norm, std=norm)


def _resnet(device: str, kind: str) -> dict[str, Any]:
    """A training step of ResNet-18 at 224 px, forward, backward and SGD; 16 bits by autocast."""
    import torch

    from dlcli.card import ModelSpec
    from dlcli.task import TaskSpec
    from dlcli.zoo.base import build_model

    task = TaskSpec(input=_image(_PIXELS), class_names=tuple(map(str, range(10))))
    model = build_model(ModelSpec(name="resnet18", args={}), task).to(device).train()
    model.to(memory_format=torch.channels_last)
    batch = _CPU_BATCH if device == "cpu" else _BATCH
    x = torch.randn(batch, 3, _PIXELS, _PIXELS).to(device).to(memory_format=torch.channels_last)
    y = torch.randint(10, (batch,)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    dtype = getattr(torch, kind)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.partition(":")[0], dtype=dtype, enabled=kind != "float32"):
            loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return _rates(step, device, batch, "images/s", f"batch {batch}, {_PIXELS} px")


def _decoding() -> dict[str, Any]:
    """JPEG files to pixels of 224 px, on all threads that a run would use."""
    from PIL import Image

    from dlcli.pixels.decode import decode

    spec = _image(224)
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize(_PHOTO, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    threads = usable_cores()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(threads) as pool:
        path = Path(folder) / "photo.jpg"
        path.write_bytes(buffer.getvalue())

        def work() -> list[Any]:
            return list(pool.map(lambda _: decode(path, spec), range(_JPEGS)))

        size = f"{_PHOTO[0]} x {_PHOTO[1]}, {threads} {'thread' if threads == 1 else 'threads'}"
        return _rates(work, "cpu", _JPEGS, "images/s", size)
