"""Settings of `dlcli export`."""

from typing import Annotated

from pydantic import Field

from dlcli.config.bounds import NUMBERS_AS_TEXT, parse_bound
from dlcli.config.devices import parse_device
from dlcli.config.measure import MeasureConfig
from dlcli.config.onnx_versions import OnnxVersions
from dlcli.schema import Frozen
from dlcli.settings import parsed_by, setting


class ExportConfig(OnnxVersions):
    """Export"""

    model_config = NUMBERS_AS_TEXT

    dynamic: bool = setting(
        True, "Dynamic batch size and sequence length, or static shapes.", "--dynamic/--static"
    )
    batch_size: int | None = setting(
        None, "Batch size of a static file (default: 1).", "--batch-size", "-b", ge=1
    )
    length: int | None = setting(
        None, "Sequence length of a static file (default: the longest in training).", ge=1
    )
    half: bool = setting(False, "Weights and arithmetic in float16.", "--half")
    embed_preprocessing: bool = setting(
        False,
        "Put the preprocessing into the file: raw uint8 images or columns in, probabilities out.",
        "--embed-preprocessing",
    )
    softmax: bool = setting(False, "Output probabilities instead of logits.", "--softmax")
    simplify: bool = setting(False, "Fold constants, fuse nodes.", "--simplify", advanced=True)
    device: Annotated[str, parsed_by(parse_device)] = setting(
        "cpu",
        "Where the ONNX file is compared with the model: cpu, cuda, cuda:1 or tensorrt.",
        "--device",
        advanced=True,
    )
    tolerance: float | None = setting(
        None,
        "Largest difference of an output, relative to the largest output (default: 0.001; 0.02 with "
        "--half; more for int8 models).",
        "--tolerance",
        gt=0,
        advanced=True,
    )
    agreement: float = setting(
        0.99,
        "Smallest share of samples with the same predicted class.",
        "--agreement",
        ge=0,
        le=1,
        advanced=True,
    )
    max_drop: Annotated[str | None, parsed_by(parse_bound)] = setting(
        None,
        "Largest drop of the metric, absolute (0.01) or relative (1%) (default: 0.005 for accuracy and "
        "other scores, 0.5% for errors).",
        "--max-drop",
    )


class ExportSettings(Frozen):
    """All settings of `export`."""

    export: ExportConfig = Field(default_factory=ExportConfig)
    measure: MeasureConfig = Field(default_factory=MeasureConfig)
