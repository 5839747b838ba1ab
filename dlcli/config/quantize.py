"""Settings of `dlcli quantize`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from dlcli.config.bounds import NUMBERS_AS_TEXT, parse_bound
from dlcli.config.finetune import FinetuneConfig, refuse_finetuning
from dlcli.config.measure import MeasureConfig
from dlcli.config.onnx_versions import OnnxVersions
from dlcli.registry import declared_names
from dlcli.schema import Frozen
from dlcli.settings import RegisteredName, parsed_by, setting

QuantizeMethodName = Annotated[
    str,
    RegisteredName(
        "quantization method",
        "dlcli.compress.quantize",
        "register_quantize_method",
        others=("auto",),
    ),
]


class QuantizeConfig(OnnxVersions):
    """Quantization"""

    model_config = NUMBERS_AS_TEXT

    method: QuantizeMethodName = setting(
        "auto", "Quantization method; auto tries them, the cheapest first.", "--method", "-m"
    )
    backend: Literal["onnxruntime", "torch"] | None = setting(
        None, "Runtime of the quantized model (default: by method).", "--backend"
    )
    target: Literal["x86", "arm", "tensorrt"] | None = setting(
        None,
        "Processor to quantize for, or tensorrt: int8 as TensorRT takes it (default: this machine's).",
        "--target",
        advanced=True,
        applies_to={"method": ("static", "qat")},
    )
    reduce_range: bool | None = setting(
        None,
        "Weights in 7 bits, for x86 processors without VNNI, whose int8 products saturate (default: by "
        "this machine).",
        "--reduce-range",
        advanced=True,
        applies_to={"method": ("static",)},
    )
    calibration: Literal["minmax", "entropy", "percentile"] = setting(
        "minmax",
        "Calibration method of activation ranges.",
        "--calibration",
        applies_to={"method": ("static",)},
    )
    calibration_samples: int = setting(
        256,
        "Training samples for calibration.",
        "--calibration-samples",
        ge=1,
        advanced=True,
        applies_to={"method": ("static", "qat")},
    )
    bits: Literal[4, 8] = setting(
        8, "Bits per weight (weight-only).", "--bits", applies_to={"method": ("weight-only",)}
    )
    group_size: int = setting(
        64,
        "Weights per scale (weight-only).",
        "--group-size",
        ge=8,
        applies_to={"method": ("weight-only",)},
    )
    skip: str | None = setting(
        None, "Layers to keep in float: names or patterns, comma-separated: fc,layer4*.", "--skip"
    )
    max_drop: Annotated[str | None, parsed_by(parse_bound)] = setting(
        None, "Largest drop of the metric, absolute (0.01) or relative (1%).", "--max-drop"
    )
    report: Literal["none", "sensitivity"] = setting(
        "none", "sensitivity: also measure the drop caused by each layer alone.", "--report"
    )
    args: dict[str, Any] = setting({}, "Keyword arguments of the method.")


class QuantizeSettings(Frozen):
    """All settings of `quantize`."""

    quantize: QuantizeConfig = Field(default_factory=QuantizeConfig)
    finetune: FinetuneConfig = Field(default_factory=FinetuneConfig)
    measure: MeasureConfig = Field(default_factory=MeasureConfig)


def check_quantizing(settings: QuantizeSettings, typed: Mapping[str, Any]) -> None:
    """Refuse settings of fine-tuning where nothing is trained. Raises: UsageError.

    ``typed`` is what the user gave, nested.
    """
    method = settings.quantize.method
    trained = declared_names("dlcli.compress.quantize", "register_quantize_method", "trains_for")
    if method not in trained and (method != "auto" or settings.quantize.max_drop is None):
        refuse_finetuning(
            QuantizeSettings,
            typed.get("finetune", {}),
            f"is for training, which only --method {' and '.join(trained)} does",
            hint=f"--method {trained[0]}; or --method auto with --max-drop, which tries it last",
        )
