"""Calibration data: training samples on which the int8 ranges of activations are computed.

The ranges are computed by `dlcli.compress.quantize.static` in ONNX Runtime, and by
`dlcli.compress.quantize.fake_quant_sites` for quantization-aware training.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dlcli.compress.quantize.static import FEWEST_SAMPLES
from dlcli.config import EvalConfig, QuantizeSettings
from dlcli.data.base import Inputs
from dlcli.data.prepare import trim
from dlcli.deploy.quantize.methods import TOO_FEW_SAMPLES
from dlcli.errors import DlcliError
from dlcli.evaluation.eval_data import eval_data
from dlcli.formats.base import Artifact


class CalibrationUnavailable(DlcliError):
    """The training samples cannot be reached, which says nothing about the model or the method."""


class CalibrationData:
    """Evenly spaced samples of the training split: at most ``--calibration-samples``."""

    def __init__(self, source: Artifact, settings: QuantizeSettings) -> None:
        """Open the training split. Raises: DlcliError."""
        measure = settings.measure
        config = EvalConfig(
            data=measure.data,
            data_dir=measure.data_dir,
            split="train",
            workers=measure.workers,
            offline=measure.offline,
        )
        self._task = source.card.task
        self._reader = eval_data(source.card, source.path, config, divide=True).reader
        total = len(self._reader)
        count = min(settings.quantize.calibration_samples, total)
        self._indices = np.unique(np.linspace(0, total - 1, count).round().astype(np.int64))

    def __len__(self) -> int:
        return len(self._indices)

    def batches(self, batch_size: int) -> Iterator[Inputs]:
        """Yield the samples that can be read, in batches that may be smaller or empty."""
        for start in range(0, len(self), batch_size):
            inputs, _ = self._reader.read(self._indices[start : start + batch_size])
            yield trim(inputs, self._task) if len(inputs[0]) else inputs


def static_calibration(source: Artifact, settings: QuantizeSettings) -> CalibrationData:
    """Return the data for static int8.

    Raises: CalibrationUnavailable, and DlcliError for fewer samples than ranges need.
    """
    try:
        data = CalibrationData(source, settings)
    except DlcliError as exc:
        raise CalibrationUnavailable(
            f"static int8 is calibrated on training samples, which cannot be reached: {exc.message}",
            hint="give --data FOLDER or a --method without: dynamic, fp16",
        ) from exc
    if len(data) < FEWEST_SAMPLES:
        raise DlcliError(
            f"there are {len(data)} training samples to calibrate on: {TOO_FEW_SAMPLES}",
            hint="give --data FOLDER with more, or --method dynamic",
        )
    return data
