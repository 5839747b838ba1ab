"""Methods of quantization: which backend runs each, and which models and options they are for."""

from __future__ import annotations

import platform
from typing import Literal

from dlcli import transforms
from dlcli.compress.quantize.static import FEWEST_SAMPLES
from dlcli.config import QuantizeConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.base import Artifact

Method = Literal["dynamic", "static", "qat", "weight-only", "fp16", "bf16"]
Backend = Literal["onnxruntime", "torch"]

# The backends that run a method, the default first; and why the others do not.
BACKENDS: dict[str, tuple[Backend, ...]] = {
    "dynamic": ("onnxruntime",),
    "static": ("onnxruntime",),
    "qat": ("onnxruntime",),
    "weight-only": ("onnxruntime", "torch"),
    "fp16": ("onnxruntime", "torch"),
    "bf16": ("torch",),
}
_UNSUPPORTED = {
    "torch": "torch's int8 modules are deprecated and no faster than float on a CPU",
    "onnxruntime": "ONNX Runtime's CPU provider refuses bfloat16",
}
TOO_FEW_SAMPLES = f"fewer than {FEWEST_SAMPLES} samples do not give ranges that hold for others"


def check_source(source: Artifact) -> None:
    """Refuse a source that holds no trainable model, or no float one. Raises: DlcliError."""
    path = source.path
    record = transforms.not_float(source.card)
    if record is not None:
        how = record.args.get("method") or record.args.get("dtype") or record.kind
        state = "in 16 bits" if record.kind == transforms.HALF else "quantized"
        raise DlcliError(
            f"{path} is {state} already ({how})",
            hint="quantize the float model that it was made from"
            + (f": {source.card.parent}" if source.card.parent else ""),
        )
    if path.suffix == ".failed":
        raise DlcliError(f"{path} is a file that failed its parity check", hint="quantize its source")
    source.module()


def check_options(config: QuantizeConfig) -> None:
    """Refuse options that fit no model, before any work. Raises: UsageError."""
    if config.method != "auto":
        backends_of(config.method, config.backend)
    if config.method in ("auto", "static", "qat") and config.calibration_samples < FEWEST_SAMPLES:
        raise UsageError(
            f"--calibration-samples {config.calibration_samples}: {TOO_FEW_SAMPLES}",
            hint="--calibration-samples 256, or --method dynamic",
        )


def backends_of(method: str, requested: Backend | None) -> tuple[Backend, ...]:
    """Return the backends that run a method, limited to the requested one.

    Raises: UsageError where that one does not run it.
    """
    backends = BACKENDS[method]
    if requested is None or requested in backends:
        return backends if requested is None else (requested,)
    methods = ", ".join(name for name, able in BACKENDS.items() if requested in able)
    raise UsageError(
        f"--method {method} --backend {requested} does not exist: {_UNSUPPORTED[requested]}",
        hint=f"--backend {backends[0]}; for {requested} there is {methods}",
    )


def cpu_target() -> Literal["x86", "arm"]:
    """Return the kind of this machine's processor, as ``--target`` names it."""
    return "arm" if platform.machine().lower() in ("arm64", "aarch64") else "x86"
