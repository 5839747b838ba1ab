"""Which models and options a method of quantization is for."""

from __future__ import annotations

import platform
from typing import Literal

from dlcli import transforms
from dlcli.compress.quantize.base import backends_of, in_auto_order, method_of
from dlcli.compress.quantize.static import FEWEST_SAMPLES
from dlcli.config import QuantizeConfig, QuantizeSettings
from dlcli.config.finetune import refuse_finetuning
from dlcli.config.onnx_versions import check_runtime
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.base import Artifact, no_weights
from dlcli.formats.onnx.embed import takes_raw_inputs
from dlcli.keyword_settings import check_args
from dlcli.machine.hardware import cpu
from dlcli.settings import typed_flag
from dlcli.zoo.base import check_trained_by_gradient

TOO_FEW_SAMPLES = f"fewer than {FEWEST_SAMPLES} samples do not give ranges that hold for others"


def is_graph(source: Artifact) -> bool:
    """Whether a source is an ONNX file: quantized as it is, by what needs no trainable weights."""
    return source.format.name == "onnx"


def check_source(source: Artifact) -> None:
    """Refuse a source that is neither a trainable model nor an ONNX file, or is no float one.

    Raises: DlcliError.
    """
    path = source.path
    check_trained_by_gradient(source.card.model.name, source.card.task.input.kind, "quantize")
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
    if not is_graph(source):
        source.module()
    elif takes_raw_inputs(source.card):
        raise DlcliError(
            f"{path} has its preprocessing in the graph, which is not for 8 or 16 bits",
            hint="quantize a file that was exported without --embed-preprocessing",
        )


def check_method(source: Artifact, settings: QuantizeSettings) -> None:
    """Refuse a method or settings that need weights where the source is a graph. Raises: UsageError."""
    config = settings.quantize
    if not is_graph(source):
        return
    trains = settings.finetune.model_dump(exclude_unset=True)
    refuse_finetuning(QuantizeSettings, trains, "is for training, which an ONNX file has no weights for")
    if config.method == "auto" and config.backend != "torch":
        return
    for backend in backends_of(config.method, config.backend) if config.method != "auto" else ():
        if backend == "onnxruntime" and not method_of(config.method, backend).trains:
            return
    error = no_weights(source.file)
    which = f"--method {config.method}" if config.method != "auto" else f"--backend {config.backend}"
    raise UsageError(
        f"{which} needs weights that torch can use: {error.message}",
        hint=f"{error.hint}; an ONNX file takes --method dynamic, static, weight-only or fp16",
    )


def may_calibrate(method: str) -> bool:
    """Whether a method, or one of auto's, computes ranges on training samples: others are to measure."""
    entries = in_auto_order() if method == "auto" else [method_of(method, backends_of(method)[0])]
    return any(entry.calibrates for entry in entries)


def check_options(config: QuantizeConfig) -> None:
    """Refuse options that fit no model, before any work. Raises: UsageError."""
    if config.method == "auto":
        methods = in_auto_order()
    else:
        backends = backends_of(config.method, config.backend)
        methods = [method_of(config.method, backend) for backend in backends]
    check_runtime(config)
    if config.requested_versions and all(method.backend != "onnxruntime" for method in methods):
        flag = typed_flag(QuantizeConfig, next(iter(config.requested_versions)), None)
        raise UsageError(
            f"{flag} is for ONNX files, which --method {config.method} --backend torch does not write",
            hint="leave it out, or --backend onnxruntime",
        )
    check_args("quantize.args", config, [f for method in methods for f in method.functions])
    calibrates = any(method.calibrates for method in methods)
    if calibrates and config.calibration_samples < FEWEST_SAMPLES:
        raise UsageError(
            f"--calibration-samples {config.calibration_samples}: {TOO_FEW_SAMPLES}",
            hint="--calibration-samples 256, or --method dynamic",
        )


def int8_saturates() -> bool:
    """Whether this processor is an x86 one that is known to lack VNNI."""
    known = set(cpu()["instruction_sets"])
    vnni = {"AVX-VNNI", "AVX512-VNNI", "AMX-INT8"}
    return cpu_target() == "x86" and "AVX2" in known and not vnni & known


def cpu_target() -> Literal["x86", "arm"]:
    """Return the kind of this machine's processor, as ``--target`` names it."""
    return "arm" if platform.machine().lower() in ("arm64", "aarch64") else "x86"
