"""What is tried on each device: small operations, compared with float64 on the CPU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Of the largest value of the reference. float32 stays near 1e-6; TF32, which cuDNN uses for
# convolutions by default, near 1e-3; a wrong kernel is off by the size of the values themselves.
TOLERANCE = 5e-3
# Of 16-bit products: bfloat16 has 8 bits of mantissa, and inputs and results are rounded.
HALF_TOLERANCE = 2e-2


def try_operation(name: str, device: str) -> dict[str, Any]:
    """Run an operation on ``device`` and compare it with float64 on the CPU."""
    work = OPERATIONS[name]
    dtype = half_type(device) if name == "autocast" else "float32"
    report = {"name": name, "dtype": dtype, "ok": False, "ms": None, "max_error": None, "reason": None}
    try:
        expected, _ = work("cpu", "float64")
        got, _ = work(device, dtype)  # also loads the kernels, so that the time is of a warm run
        times = [work(device, dtype)[1] for _ in range(3)]
    except (RuntimeError, NotImplementedError, AssertionError) as exc:
        return report | {"reason": f"{type(exc).__name__}: {' '.join(str(exc).split())}"}
    errors = [_relative_error(g, e) for g, e in zip(got, expected, strict=True)]
    error = max(math.inf if math.isnan(e) else e for e in errors)  # max() alone can lose a NaN
    report |= {"ms": round(min(times) * 1e3, 3), "max_error": plain(error)}
    allowed = HALF_TOLERANCE if name == "autocast" else TOLERANCE
    if error > allowed:
        reason = f"the result is off by {error:.2g} of its size; {allowed:g} is allowed"
        return report | {"reason": reason}
    return report | {"ok": True}


def half_type(device: str) -> str:
    """The 16-bit type of autocast there: bfloat16 where the hardware has it, as `--amp auto` chooses."""
    import torch

    has_bf16 = not device.startswith("cuda") or torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if has_bf16 and device != "mps" else "float16"


def _relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got.double() - expected).abs().max() / expected.abs().max())


def plain(error: float) -> float | None:
    """Two digits are enough; JSON has no NaN and no infinity."""
    return float(f"{error:.1e}") if math.isfinite(error) else None


def _inputs(
    shapes: list[tuple[int, ...]], device: str, dtype: str, grad: bool
) -> tuple[torch.Tensor, ...]:
    """Standard normal tensors, the same numbers for every device and dtype."""
    import torch

    generator = torch.Generator("cpu").manual_seed(0)
    tensors = (torch.randn(shape, generator=generator) for shape in shapes)
    return tuple(t.to(device, getattr(torch, dtype)).requires_grad_(grad) for t in tensors)


def _matmul(device: str, dtype: str) -> tuple[list[torch.Tensor], float]:
    """A (512, 512) product: results on the CPU, and seconds from the first kernel to the copy back."""
    a, b = _inputs([(512, 512), (512, 512)], device, dtype, grad=False)
    _wait(a)
    t0 = time.perf_counter()
    results = [(a @ b).cpu()]
    return results, time.perf_counter() - t0


def _conv2d(device: str, dtype: str) -> tuple[list[torch.Tensor], float]:
    """A 3x3 convolution 16 to 32 channels on (8, 16, 32, 32), forward and backward, likewise."""
    import torch

    x, weight, upstream = _inputs(
        [(8, 16, 32, 32), (32, 16, 3, 3), (8, 32, 32, 32)], device, dtype, grad=True
    )
    _wait(x)
    t0 = time.perf_counter()
    y = torch.nn.functional.conv2d(x, weight, padding=1)
    grad_x, grad_weight = torch.autograd.grad(y, (x, weight), upstream.detach())
    results = [t.detach().cpu() for t in (y, grad_x, grad_weight)]
    return results, time.perf_counter() - t0


def _autocast(device: str, dtype: str) -> tuple[list[torch.Tensor], float]:
    """A (256, 256) linear layer under autocast, float64 without; its result has the 16-bit type."""
    import torch

    x, weight = _inputs(
        [(256, 256), (256, 256)], device, "float64" if dtype == "float64" else "float32", False
    )
    _wait(x)
    kind = device.partition(":")[0]
    half = getattr(torch, dtype)
    t0 = time.perf_counter()
    with torch.autocast(kind, dtype=half, enabled=dtype != "float64"):
        y = torch.nn.functional.linear(x, weight)
    results = [y.cpu()]
    elapsed_s = time.perf_counter() - t0
    if y.dtype != half:
        raise RuntimeError(f"autocast gave {y.dtype} where {half} was requested")
    return results, elapsed_s


def _training(device: str, dtype: str) -> tuple[list[torch.Tensor], float]:
    """Five steps of SGD with momentum on a small network: its weights, and the losses of the steps.

    Raises: RuntimeError where the loss did not fall.
    """
    import torch

    torch_dtype = getattr(torch, dtype)
    x, y, *weights = _inputs([(64, 16), (64, 4), (32, 16), (4, 32)], "cpu", "float64", False)
    model = torch.nn.Sequential(
        torch.nn.Linear(16, 32, bias=False), torch.nn.ReLU(), torch.nn.Linear(32, 4, bias=False)
    )
    with torch.no_grad():
        for parameter, weight in zip(model.parameters(), weights, strict=True):
            parameter.copy_(weight / parameter.shape[1] ** 0.5)
    # The type first: MPS has no float64 to convert from.
    model.to(torch_dtype).to(device)
    x, y = (tensor.to(torch_dtype).to(device) for tensor in (x, y))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    t0 = time.perf_counter()
    for _ in range(5):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.detach())
    results = [torch.stack(losses).cpu(), *(p.detach().cpu() for p in model.parameters())]
    elapsed_s = time.perf_counter() - t0
    first, *_, last = results[0].tolist()
    if not last < first:
        raise RuntimeError(f"the loss of a tiny training rose from {first:.3g} to {last:.3g}")
    return results, elapsed_s


OPERATIONS: dict[str, Callable[[str, str], tuple[list[torch.Tensor], float]]] = {
    "matmul": _matmul,
    "conv2d": _conv2d,
    "autocast": _autocast,
    "training": _training,
}


def _wait(tensor: torch.Tensor) -> None:
    """Finish what is queued on the tensor's device: a copy to the CPU has to wait for it."""
    tensor.detach().flatten()[:1].cpu()
